//! The products of a search: a catalogue encoded on the fly, or an index that `mercer index` saved.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use mercer::catalogue::store::{self, Contents, Items, RowFeatures};
use mercer::engine::EngineError;
use mercer::input::check_unique_ids;
use mercer::{Catalogue, Engine};
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::requests::{Requests, place};
use crate::table::grouped;

#[derive(Args)]
pub struct ProductArgs {
    /// The products, one JSON object per line; catalogue.jsonl in the model's folder if not given
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "index")]
    catalogue: Option<PathBuf>,
    /// The products, as `mercer index` saved them
    #[arg(long, value_name = "DIR")]
    index: Option<PathBuf>,
}

/// Products that can be searched, shown and ranked.
pub struct Products {
    contents: Contents,
}

impl Products {
    /// Opens the index or encodes the catalogue that the arguments name.
    pub fn open(engine: &Engine, args: &ProductArgs) -> Result<Products, Failure> {
        if let Some(index) = &args.index {
            return Products::load(engine, index);
        }
        let start = Instant::now();
        let default = engine.folder().join("catalogue.jsonl");
        let path = args.catalogue.as_deref().unwrap_or(&default);
        let products = Products::encode(engine, path)?;
        let (count, seconds) = (grouped(products.len()), start.elapsed().as_secs_f64());
        eprintln!(
            "hint: encoded {count} products in {seconds:.1} s; `mercer index` keeps them for `--index`"
        );
        Ok(products)
    }

    /// Opens an index of this model.
    fn load(engine: &Engine, folder: &Path) -> Result<Products, Failure> {
        let contents = store::open(folder)?;
        let expected = engine.fingerprint()?;
        if contents.model != expected {
            let (found, expected) = (contents.model, expected.to_owned());
            return Err(
                Failure::from(EngineError::OtherModel { found, expected }).at(&folder.display().to_string())
            );
        }
        Ok(Products { contents })
    }

    /// Reads and encodes a catalogue.
    pub fn encode(engine: &Engine, path: &Path) -> Result<Products, Failure> {
        let mut records = Requests::read(engine, path, "--catalogue")?;
        check_unique_ids(&records).map_err(|error| Failure::from(error).at(&path.display().to_string()))?;
        let mut ids = Vec::with_capacity(records.len());
        for record in &records {
            let id =
                record.id.ok_or_else(|| Failure::new("a product needs an id").at(&place(path, record.line)));
            ids.push(id?);
        }
        let items = Items::new(records.iter().map(|record| Value::Object(record.json.clone()).to_string()))?;
        let requests = Requests::new(path, &mut records);
        drop(records);
        let dim = engine.dim();
        let mut vectors = vec![0.0; ids.len() * dim]; // [products, dim]
        let width = engine.ranker_width();
        let mut data = vec![0.0; ids.len() * width.unwrap_or(0)]; // [products, width]
        requests.in_chunks("encoding products", |rows, requests| {
            let vectors = &mut vectors[rows.start * dim..rows.end * dim];
            match width {
                Some(width) => {
                    let data = &mut data[rows.start * width..rows.end * width];
                    engine.encode_items_for_ranking(requests, vectors, data)
                }
                None => engine.encode_items_into(requests, vectors),
            }
        })?;
        let catalogue = Catalogue::new(engine.metric(), dim, ids, vectors)?;
        let features = width.map(|width| RowFeatures { width, data });
        let model = engine.fingerprint()?.to_owned();
        Ok(Products { contents: Contents { catalogue, items, features, model } })
    }

    /// Saves the products as an index, whole or not at all.
    pub fn save(&self, folder: &Path) -> Result<(), Failure> {
        Ok(store::save(folder, &self.contents)?)
    }

    /// Number of products.
    pub fn len(&self) -> usize {
        self.contents.items.len()
    }

    /// Ids and vectors.
    pub fn catalogue(&self) -> &Catalogue {
        &self.contents.catalogue
    }

    /// The ranker's side of each product, if the model has a ranker.
    pub fn ranker_rows(&self) -> Option<&RowFeatures> {
        self.contents.features.as_ref()
    }

    /// The catalogue's line of row `row`.
    pub fn item(&self, row: usize) -> Result<Map<String, Value>, Failure> {
        let line = self.contents.items.get(row).unwrap_or_default();
        serde_json::from_str(line)
            .map_err(|error| Failure::new(format!("the line of product {row} is not a JSON object: {error}")))
    }
}
