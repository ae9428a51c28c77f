//! The command line as a user runs it, on the demo model and a part of its catalogue.
#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail by panic too

mod encode;
mod eval;
mod failures;
mod index;
mod inspect;
mod knn;
mod search;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

/// The model that `mercer` opens by default, from the repository's root, where tests run.
const MODEL: &str = "weights/demo";
/// Products of a [`Shop`].
const PRODUCTS: usize = 60;

/// What a run of the command left behind.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `mercer` with these arguments.
fn mercer<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Run {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_mercer")).args(arguments).output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Run {
    /// The standard output of a run that went well.
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        assert!(!self.stderr.contains("error"), "{}", self.stderr);
        self.stdout
    }

    /// The JSON object of a run that went well: exactly one line.
    fn json(self) -> Value {
        let stdout = self.ok();
        assert_eq!(stdout.lines().count(), 1, "{stdout}");
        serde_json::from_str(&stdout).unwrap()
    }

    /// Checks that the run failed with this exit code and exactly these lines of `error:` and `hint:`.
    fn fails(self, code: i32, error: &str, hint: Option<&str>) {
        let mut expected = format!("error: {error}\n");
        if let Some(hint) = hint {
            expected += &format!("hint: {hint}\n");
        }
        assert_eq!((self.code, self.stderr), (Some(code), expected));
        assert_eq!(self.stdout, "");
    }
}

/// A folder with a part of the demo catalogue in `catalogue.jsonl`, image paths made absolute.
struct Shop {
    folder: TempDir,
    lines: Vec<String>,
}

impl Shop {
    fn new() -> Shop {
        let images = fs::canonicalize(MODEL).unwrap();
        let catalogue = fs::read_to_string(Path::new(MODEL).join("catalogue.jsonl")).unwrap();
        let lines: Vec<String> = catalogue
            .lines()
            .take(PRODUCTS)
            .map(|line| {
                let mut product: Value = serde_json::from_str(line).unwrap();
                product["image"] = images.join(product["image"].as_str().unwrap()).to_str().unwrap().into();
                product.to_string()
            })
            .collect();
        let shop = Shop { folder: tempfile::tempdir().unwrap(), lines };
        shop.write("catalogue.jsonl", &(shop.lines.join("\n") + "\n"));
        shop
    }

    /// The path of a file of the shop.
    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// Runs `mercer COMMAND --catalogue …` with further arguments.
    fn run(&self, command: &str, arguments: &[&str]) -> Run {
        mercer([&[command, "--catalogue", &self.path("catalogue.jsonl")], arguments].concat())
    }

    /// Encodes the catalogue into `index`.
    fn index(&self) -> String {
        let index = self.path("index");
        self.run("index", &["--output", &index]).ok();
        index
    }

    /// A copy of the demo model without its catalogue, its tensors changed by `change`.
    fn model(&self, change: impl FnOnce(&mut Tensors)) -> PathBuf {
        let folder = self.folder.path().join("model");
        fs::create_dir(&folder).unwrap();
        for file in ["config.json", "tokenizer.json"] {
            fs::copy(Path::new(MODEL).join(file), folder.join(file)).unwrap();
        }
        let bytes = fs::read(Path::new(MODEL).join("model.safetensors")).unwrap();
        let mut tensors: Tensors = SafeTensors::deserialize(&bytes)
            .unwrap()
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
            .collect();
        change(&mut tensors);
        let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        folder
    }
}

/// The tensors of a model: dtype, shape, bytes.
type Tensors = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

/// The hits of a search's JSON.
fn hits(answer: &Value) -> &[Value] {
    answer["hits"].as_array().unwrap()
}

/// The ids of a search's JSON, best first.
fn ids(answer: &Value) -> Vec<i64> {
    hits(answer).iter().map(|hit| hit["id"].as_i64().unwrap()).collect()
}
