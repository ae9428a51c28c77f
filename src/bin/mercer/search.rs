//! `mercer search`: from a query to the best products.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use mercer::catalogue::{Certificate, MAX_K};
use mercer::engine::{EngineError, Parts, Side};
use mercer::input::{Behaviour, read_behaviour};
use mercer::{Engine, Hit, Image, Modality, Request};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::model::ModelArgs;
use crate::output;
use crate::products::{ProductArgs, Products};
use crate::requests::of_one;
use crate::table::{Column, grouped, render};

const EXAMPLES: &str = "Examples:
  mercer search \"black down jacket\"
  mercer search --image photo.jpg --top 5
  mercer search \"红色 连衣裙\" --image photo.jpg --user 17 --explain
  mercer search --user 17 --index my-index --json";

/// Find the best products for a text, a photo, a user, their behaviour, or any combination
///
/// Prints a table: rank, score, id, title, and how much of the score each part of the query brought. The score is the
/// cosine between query and product, or their inner product if the model does not normalise; the answer is the exact top
/// of the whole catalogue, equal scores by id.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Search {
    /// What to search for, Chinese or English
    #[arg(value_name = "QUERY TEXT")]
    text: Option<String>,
    /// A photo: JPEG, PNG or WebP
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// A user: a row of the model's user table
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    user: Option<i64>,
    /// Behaviour as JSON, written as in a catalogue line, or @FILE that holds it
    #[arg(long, value_name = "JSON|@FILE")]
    behaviour: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    products: ProductArgs,
    /// How many products to print
    #[arg(long, value_name = "N", default_value = "10", value_parser = top())]
    top: usize,
    /// Order the best CANDIDATES (100 if no number is given, never fewer than --top) by the model's ranker
    #[arg(long, value_name = "CANDIDATES", num_args = 0..=1, require_equals = true, default_missing_value = "100",
          value_parser = top())]
    rerank: Option<usize>,
    /// Also print each part as a share of the score, and how the answer was proven
    #[arg(long)]
    explain: bool,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// How many products an answer may have.
pub fn top() -> RangedU64ValueParser<usize> {
    let most = u64::try_from(MAX_K).unwrap_or(u64::MAX);
    RangedU64ValueParser::new().range(1..=most)
}

/// One product of the answer.
struct Found {
    hit: Hit,
    rank_score: Option<f32>,
    parts: Option<Parts>,
    item: Map<String, Value>,
}

impl Search {
    pub fn run(&self) -> Result<(), Failure> {
        if self.text.is_none() && self.image.is_none() && self.user.is_none() && self.behaviour.is_none() {
            return Err(Failure::usage("nothing to search for")
                .hint("give a text, --image FILE, --user ID or --behaviour JSON, or several of them"));
        }
        let engine = self.model.open()?;
        if self.rerank.is_some() && engine.ranker_width().is_none() {
            return Err(EngineError::NoRanker.into());
        }
        let request = [self.request(&engine)?];
        let features = engine.preprocess(Side::Query, &request).map_err(of_one)?;
        let mut vector = vec![0.0; engine.dim()];
        engine.encode_features(Side::Query, &features, &mut vector).map_err(of_one)?;
        let products = Products::open(&engine, &self.products)?;
        let candidates = self.rerank.map_or(self.top, |candidates| candidates.max(self.top));
        let hits = products.catalogue().search(&vector, candidates)?;
        let parts = match engine.plan().query.is_linear() {
            true => Some(engine.explain_features(products.catalogue(), &features, &hits)?.concat()),
            false => None,
        };
        let certificate = hits[0].certificate();
        let mut order: Vec<(usize, Option<f32>)> = (0..hits[0].len()).map(|at| (at, None)).collect();
        if self.rerank.is_some() {
            let rows = products.ranker_rows().ok_or(EngineError::NoRanker)?;
            let ranked = engine.rank_features(&features, &hits, rows).map_err(of_one)?.concat();
            let at: HashMap<usize, usize> =
                hits[0].iter().enumerate().map(|(at, hit)| (hit.row, at)).collect();
            order = ranked.iter().map(|ranked| (at[&ranked.hit.row], Some(ranked.rank_score))).collect();
        }
        let found = order.into_iter().take(self.top).map(|(at, rank_score)| {
            let hit = hits[0][at];
            let parts = parts.as_ref().map(|parts| parts[at]);
            Ok(Found { hit, rank_score, parts, item: products.item(hit.row)? })
        });
        let found = found.collect::<Result<Vec<Found>, Failure>>()?;
        if self.json {
            let bias = engine.plan().query.head.iter().any(|layer| layer.bias.is_some());
            output::print_json(&json(&found, bias))
        } else {
            let mut text = self.table(&request[0], &found);
            if self.explain {
                text += &footer(certificate, &engine);
            }
            output::print(&text)
        }
    }

    fn request(&self, engine: &Engine) -> Result<Request, Failure> {
        Ok(Request {
            text: self.text.clone(),
            image: self.image.clone().map(Image::Path),
            user: self.user,
            behaviour: self.behaviour.as_deref().map(|argument| behaviour(argument, engine)).transpose()?,
        })
    }

    fn table(&self, request: &Request, found: &[Found]) -> String {
        let modalities: Vec<Modality> = Modality::ALL.into_iter().filter(|m| has(request, *m)).collect();
        let parts: Vec<&Parts> = found.iter().filter_map(|found| found.parts.as_ref()).collect();
        let linear = parts.len() == found.len();
        let bias = parts.iter().any(|parts| parts.bias() != 0.0);

        let mut columns = vec![Column::number("rank")];
        columns.extend(self.rerank.map(|_| Column::number("ranker")));
        columns.extend([Column::number("score"), Column::number("id"), Column::title("title")]);
        if linear {
            columns.extend(modalities.iter().map(|modality| Column::number(modality.name())));
            columns.extend(bias.then(|| Column::number("bias")));
            columns.extend(self.explain.then(|| Column::text("shares")));
        }
        let row = |(at, found): (usize, &Found)| {
            let mut cells = vec![(at + 1).to_string()];
            cells.extend(found.rank_score.map(|score| format!("{score:.4}")));
            cells.extend([format!("{:.4}", found.hit.score), found.hit.id.to_string(), title(&found.item)]);
            if let Some(parts) = found.parts {
                cells.extend(modalities.iter().map(|m| format!("{:.4}", parts.get(*m).unwrap_or(0.0))));
                cells.extend(bias.then(|| format!("{:.4}", parts.bias())));
                cells.extend(self.explain.then(|| shares(found.hit.score, &parts)));
            }
            cells
        };
        render(&columns, &found.iter().enumerate().map(row).collect::<Vec<_>>())
    }
}

fn has(request: &Request, modality: Modality) -> bool {
    match modality {
        Modality::Text => request.text.is_some(),
        Modality::Image => request.image.is_some(),
        Modality::User => request.user.is_some(),
        Modality::Behaviour => request.behaviour.is_some(),
    }
}

/// The modalities that a request has, such as `text+image`.
pub fn combination(request: &Request) -> String {
    let names: Vec<&str> =
        Modality::ALL.into_iter().filter(|m| has(request, *m)).map(Modality::name).collect();
    names.join("+")
}

fn behaviour(argument: &str, engine: &Engine) -> Result<Behaviour, Failure> {
    let json = match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| {
            Failure::new(format!("{path}: {error}")).hint("--behaviour @FILE names a JSON file")
        })?,
        None => argument.to_owned(),
    };
    let value: Value = serde_json::from_str(&json).map_err(|error| {
        Failure::usage(format!("--behaviour: not JSON: {error}"))
            .hint("--behaviour '[0.1, 0.2, …]', or --behaviour @FILE")
    })?;
    read_behaviour(&value, &engine.config().inputs)
        .map_err(|problem| Failure::usage(format!("--behaviour: {problem}")))
}

/// What a product is called: its `title`, else its `text`.
fn title(item: &Map<String, Value>) -> String {
    let text = |name| item.get(name).and_then(Value::as_str);
    text("title").or_else(|| text("text")).unwrap_or_default().to_owned()
}

/// The parts as shares of the score, largest first. A part that pulls the product down has a negative share.
fn shares(score: f32, parts: &Parts) -> String {
    if score < 1e-3 {
        return "-".into(); // shares of next to nothing, or of a negative score, say nothing
    }
    let mut named: Vec<(&str, f32)> = parts.iter().map(|(modality, part)| (modality.name(), part)).collect();
    named.extend((parts.bias() != 0.0).then_some(("bias", parts.bias())));
    named.sort_by(|a, b| b.1.total_cmp(&a.1));
    let words = named.iter().map(|(name, part)| format!("{name} {:.0} %", 100.0 * part / score));
    words.collect::<Vec<_>>().join(", ")
}

fn footer(certificate: Certificate, engine: &Engine) -> String {
    let mut text = String::new();
    if !engine.plan().query.is_linear() {
        text += "no parts: the query head is not one linear layer, so a score does not split\n";
    }
    let (scanned, rescored) = (grouped(certificate.rows_scanned), grouped(certificate.rows_rescored));
    text += &format!("exact: {scanned} rows scanned, {rescored} scored in full precision");
    if certificate.slack > 0.0 {
        text += &format!(", bound within {:e}", certificate.slack);
    }
    if certificate.fallback {
        text += ", after a fallback to all rows";
    }
    format!("{text}; on {}\n", engine.device())
}

#[derive(Serialize)]
struct Answer<'a> {
    hits: Vec<JsonHit<'a>>,
}

#[derive(Serialize)]
struct JsonHit<'a> {
    rank: usize,
    id: i64,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank_score: Option<f32>,
    item: &'a Map<String, Value>,
    parts: Option<JsonParts>,
}

#[derive(Serialize)]
struct JsonParts {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    behaviour: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bias: Option<f32>,
}

fn json<'a>(found: &'a [Found], bias: bool) -> Answer<'a> {
    let parts = |parts: Parts| JsonParts {
        text: parts.get(Modality::Text),
        image: parts.get(Modality::Image),
        user: parts.get(Modality::User),
        behaviour: parts.get(Modality::Behaviour),
        bias: bias.then(|| parts.bias()),
    };
    let hit = |(at, found): (usize, &'a Found)| JsonHit {
        rank: at + 1,
        id: found.hit.id,
        score: found.hit.score,
        rank_score: found.rank_score,
        item: &found.item,
        parts: found.parts.map(parts),
    };
    Answer { hits: found.iter().enumerate().map(hit).collect() }
}
