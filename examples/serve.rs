//! The library linked from serving code: one engine and one catalogue, shared by every worker thread.
//!
//!     cargo run --release --example serve

use std::path::Path;
use std::thread;

use mercer::engine::Side;
use mercer::input::read_records;
use mercer::{Catalogue, Engine, Options, Request};

fn main() -> mercer::Result<()> {
    let engine = Engine::open("weights/demo", Options::default())?;
    println!("{} on {}", engine.folder().display(), engine.device());

    let products = read_records(Path::new("weights/demo/catalogue.jsonl"), &engine.config().inputs)?;
    let requests: Vec<Request> = products.iter().map(|product| product.request.clone()).collect();
    let ids = products.iter().filter_map(|product| product.id).collect();
    let vectors = engine.encode_items(&requests)?; // [products, dim]
    let catalogue = Catalogue::new(engine.metric(), engine.dim(), ids, vectors)?;

    // Handles are cheap to clone and every call takes `&self`: a worker needs no lock.
    let workers = ["黑色羽绒服", "red striped t-shirt", "适合通勤的双肩包"].map(|text| {
        let (engine, catalogue) = (engine.clone(), catalogue.clone());
        thread::spawn(move || {
            let query = [Request::default().with_text(text)];
            let query = engine.preprocess(Side::Query, &query)?; // once for both calls
            let hits = engine.search_features(&catalogue, &query, 3)?;
            let parts = engine.explain_features(&catalogue, &query, &hits)?;
            Ok::<_, mercer::Error>((text, hits, parts))
        })
    });
    for worker in workers {
        let (text, hits, parts) = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        println!("\n{text}");
        for (hit, parts) in hits[0].iter().zip(&parts[0]) {
            let title = &products[hit.row].json["title"];
            let parts: Vec<String> =
                parts.iter().map(|(modality, part)| format!("{modality} {part:.3}")).collect();
            println!("  {:.3}  {:>6}  {title}  ({})", hit.score, hit.id, parts.join(", "));
        }
    }
    Ok(())
}
