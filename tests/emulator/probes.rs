//! Conformance probes: single instructions, bit for bit as tests/golden/probes.safetensors has them. They run on the
//! emulator in several schedules. On a card they run if `MERCER_PROBES_IMAGE` names emulator/tests/probes.cu compiled for
//! it, and those of sm_90 if `MERCER_PROBES_SM90_IMAGE` names probes_sm90.cu. With `MERCER_WRITE_PROBES` the answers go to
//! that file instead of being compared.

use std::collections::HashMap;
use std::path::Path;

use bytemuck::{cast_slice, pod_collect_to_vec};
use cudarc::driver::sys::{CUfunction, CUmodule};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::driver::{Answer, Context, DEFAULT_STREAM, Shape, explain};

/// Words by thread.
struct Words {
    shape: Vec<usize>,
    words: Vec<u32>,
}

impl Words {
    fn read(file: &SafeTensors, name: &str) -> Words {
        let tensor = file.tensor(name).unwrap();
        Words { shape: tensor.shape().to_vec(), words: pod_collect_to_vec(tensor.data()) }
    }
}

fn run(context: &Context, function: CUfunction, input: &Words, output: &Words) -> Answer<Vec<u32>> {
    let (from, to) =
        (context.allocate(size_of_val(&*input.words))?, context.allocate(size_of_val(&*output.words))?);
    context.upload(from, &input.words)?;
    // The kernel's one argument is a struct of the two addresses.
    let threads = u32::try_from(input.shape[0]).unwrap();
    context.launch_struct(function, Shape::new(1, threads), DEFAULT_STREAM, &[from, to])?;
    let mut words = vec![0; output.words.len()];
    context.download(&mut words, to)?;
    context.free(from)?;
    context.free(to)?;
    Ok(words)
}

/// Runs every probe of the golden file that one of the images has.
fn probe(context: &Context, images: &[Vec<u8>]) -> HashMap<String, Words> {
    let golden = std::fs::read(Path::new("tests/golden/probes.safetensors"));
    let golden = golden.unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let modules: Vec<CUmodule> = images.iter().map(|image| context.module(image).unwrap()).collect();
    let mut answers = HashMap::new();
    for name in golden.names().into_iter().filter_map(|name| name.strip_suffix(".in")) {
        let input = Words::read(&golden, &format!("{name}.in"));
        let output = Words::read(&golden, &format!("{name}.out"));
        let Some(function) = modules.iter().find_map(|&module| context.function(module, name).ok()) else {
            eprintln!("{name}: no image has it");
            continue;
        };
        let words = run(context, function, &input, &output);
        let words = words.unwrap_or_else(|code| panic!("{name}: {}", explain(code)));
        if std::env::var_os("MERCER_WRITE_PROBES").is_none() {
            let per_thread = output.shape[1];
            for (at, (found, expected)) in words.iter().zip(&output.words).enumerate() {
                let (thread, word) = (at / per_thread, at % per_thread);
                assert_eq!(
                    found, expected,
                    "{name}, thread {thread}, word {word}: {found:#x}, not {expected:#x}"
                );
            }
        }
        answers.insert(format!("{name}.out"), Words { shape: output.shape, words });
        answers.insert(format!("{name}.in"), input);
    }
    answers
}

fn write(answers: &HashMap<String, Words>, path: &Path) {
    let views = answers.iter().map(|(name, answer)| {
        let view = TensorView::new(Dtype::U32, answer.shape.clone(), cast_slice(&answer.words)).unwrap();
        (name.as_str(), view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

#[cfg(feature = "emulate")]
#[test]
fn probes_agree_with_their_golden_words() {
    let turn = crate::Turn::new();
    for (order, seeds) in [(0, 1), (1, 1), (2, 6)] {
        for seed in 1..=seeds {
            turn.emulator.schedule(order, seed);
            let images = ["probes", "probes_sm90"].map(|name| format!("EMU-MODULE {name}\0").into_bytes());
            let answers = probe(&Context::new().unwrap(), &images);
            assert_eq!(answers.len(), 2 * 16, "all probes ran");
            if let Some(path) = std::env::var_os("MERCER_WRITE_PROBES") {
                write(&answers, Path::new(&path));
            }
        }
    }
}

#[cfg(not(feature = "emulate"))]
#[test]
fn probes_agree_with_their_golden_words() {
    let read = |name| std::env::var_os(name).map(|path| std::fs::read(path).unwrap());
    let images: Vec<Vec<u8>> =
        ["MERCER_PROBES_IMAGE", "MERCER_PROBES_SM90_IMAGE"].into_iter().filter_map(read).collect();
    if images.is_empty() {
        eprintln!("skipped: MERCER_PROBES_IMAGE does not name the probes' cubin or fat binary");
        return;
    }
    let answers = probe(&Context::new().unwrap(), &images);
    if let Some(path) = std::env::var_os("MERCER_WRITE_PROBES") {
        write(&answers, Path::new(&path));
    }
}
