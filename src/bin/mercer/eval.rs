//! `mercer eval`: how good a model's answers are, on queries whose answers are known.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::Args;
use mercer::catalogue::MAX_K;
use mercer::input::Record;
use mercer::{Engine, Hit};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::metrics::{Classification, NDCG_CUT, Retrieval};
use crate::model::ModelArgs;
use crate::output;
use crate::products::{ProductArgs, Products};
use crate::requests::{Requests, place};
use crate::search::{combination, top};
use crate::table::{Column, grouped, render};

/// Measure a model on queries whose answers are known
///
/// Each line of the queries is a request (`text`, `image`, `user`, `behaviour`) and either what should be found:
/// `"relevant": [ids]`, or `"match": {field: value, ...}` for every product whose line has all these values; or what the
/// ranker should say: `"item": id, "label": 0 or 1`.
///
/// Retrieval, overall and for each combination of modalities: recall@k, the share of a query's relevant products among
/// the first k (with more than k of them it cannot reach 1); hit@k, the share of queries with a relevant product among
/// the first k (hit@1 is the precision at rank 1); MRR, the mean of 1 / rank of the first relevant product, 0 beyond
/// --depth; NDCG@10, the sum of 1 / log2(rank + 1) over the relevant of the first 10 ranks, divided by the best possible
/// sum. Queries without any relevant product are counted and left out.
///
/// Ranker: accuracy, precision and recall at 0.5, and AUC, the probability that a pair with label 1 scores higher than
/// one with label 0, ties counting half.
#[derive(Args)]
pub struct Eval {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    products: ProductArgs,
    /// The queries, one JSON object per line
    #[arg(long, value_name = "FILE.jsonl")]
    queries: PathBuf,
    /// The cut-offs of recall@k and hit@k
    #[arg(long, value_name = "K,...", value_delimiter = ',', default_value = "1,10,50", value_parser = top())]
    ks: Vec<usize>,
    /// How many ranks of each answer are looked at
    #[arg(long, value_name = "N", default_value = "1000", value_parser = top())]
    depth: usize,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// Rows of the catalogue.
type Rows = Rc<HashSet<usize>>;

/// What is known of a query.
enum Truth {
    Relevant(Rows),
    Pair(Hit, bool),
}

/// The name of the row over all combinations.
const OVERALL: &str = "overall";

impl Eval {
    pub fn run(&self) -> Result<(), Failure> {
        let engine = self.model.open()?;
        let mut records = Requests::read(&engine, &self.queries, "--queries")?;
        if records.is_empty() {
            return Err(Failure::new(format!("{}: no queries", self.queries.display())));
        }
        let products = Products::open(&engine, &self.products)?;
        let mut truths =
            Truths { path: &self.queries, products: &products, lines: None, matches: HashMap::new() };
        let (mut searches, mut relevant) = (Vec::new(), Vec::new());
        let (mut pairs, mut expected) = (Vec::new(), Vec::new());
        for record in records.drain(..) {
            match truths.of(&record)? {
                Truth::Relevant(rows) => {
                    searches.push(record);
                    relevant.push(rows);
                }
                Truth::Pair(hit, label) => {
                    pairs.push(record);
                    expected.push((hit, label));
                }
            }
        }
        let searches = Requests::new(&self.queries, &mut searches);
        let pairs = Requests::new(&self.queries, &mut pairs);
        let measured = self.retrieval(&engine, &products, &searches, &relevant)?;
        let ranker = (pairs.len() > 0).then(|| ranker(&engine, &products, &pairs, &expected)).transpose()?;
        let left_out = relevant.iter().filter(|rows| rows.is_empty()).count();
        if self.json {
            output::print_json(&self.as_json(&measured, left_out, ranker.as_ref()))
        } else {
            output::print(&self.as_text(&measured, left_out, ranker.as_ref()))
        }
    }

    /// The number of queries and the mean measures: overall first, then per combination of modalities, shortest first.
    fn retrieval(
        &self,
        engine: &Engine,
        products: &Products,
        searches: &Requests,
        relevant: &[Rows],
    ) -> Result<Vec<(String, usize, Retrieval)>, Failure> {
        let depth = self.ks.iter().copied().fold(self.depth.max(NDCG_CUT), usize::max).min(MAX_K);
        let mut measured: Vec<Option<Retrieval>> = Vec::with_capacity(searches.len());
        searches.in_chunks("searching", |rows, requests| {
            let answers = engine.search(products.catalogue(), requests, depth)?;
            for (row, hits) in rows.zip(&answers) {
                let flags: Vec<bool> = hits.iter().map(|hit| relevant[row].contains(&hit.row)).collect();
                measured.push(Retrieval::of(&flags, relevant[row].len(), &self.ks));
            }
            Ok(())
        })?;
        let mut groups: BTreeMap<(usize, String), Vec<&Retrieval>> = BTreeMap::new();
        for (row, one) in measured.iter().enumerate() {
            let Some(one) = one else { continue };
            let name = combination(searches.get(row));
            groups.entry((0, OVERALL.into())).or_default().push(one);
            groups.entry((name.split('+').count(), name)).or_default().push(one);
        }
        let means =
            groups.into_iter().filter_map(|((_, name), all)| Some((name, all.len(), Retrieval::mean(&all)?)));
        Ok(means.collect())
    }

    fn as_text(
        &self,
        measured: &[(String, usize, Retrieval)],
        left_out: usize,
        ranker: Option<&Classification>,
    ) -> String {
        let mut text = String::new();
        if !measured.is_empty() {
            let mut columns = vec![Column::text("query"), Column::number("queries")];
            columns.extend(self.ks.iter().map(|k| Column::number(format!("recall@{k}"))));
            columns.extend(self.ks.iter().map(|k| Column::number(format!("hit@{k}"))));
            columns.extend([Column::number("MRR"), Column::number(format!("NDCG@{NDCG_CUT}"))]);
            let row = |(name, queries, mean): &(String, usize, Retrieval)| {
                let measures = mean.recall.iter().chain(&mean.hit).chain([&mean.mrr, &mean.ndcg]);
                let mut cells = vec![name.clone(), grouped(*queries)];
                cells.extend(measures.map(|measure| format!("{measure:.4}")));
                cells
            };
            text += &render(&columns, &measured.iter().map(row).collect::<Vec<_>>());
        }
        if left_out > 0 {
            text += &format!("left out: {} queries without any relevant product\n", grouped(left_out));
        }
        if let Some(ranker) = ranker {
            let number = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.4}"));
            let names = ["pairs", "accuracy", "precision", "recall", "AUC"];
            let mut columns = vec![Column::text("ranker")];
            columns.extend(names.map(Column::number));
            let cells = [ranker.accuracy, ranker.precision, ranker.recall, ranker.auc].map(number);
            let mut row = vec!["at 0.5".to_owned(), grouped(ranker.pairs)];
            row.extend(cells);
            text += if text.is_empty() { "" } else { "\n" };
            text += &render(&columns, &[row]);
        }
        text
    }

    fn as_json(
        &self,
        measured: &[(String, usize, Retrieval)],
        left_out: usize,
        ranker: Option<&Classification>,
    ) -> Value {
        let measures = |queries: usize, mean: &Retrieval| {
            let mut json = Map::new();
            json.insert("queries".into(), queries.into());
            for (k, recall) in self.ks.iter().zip(&mean.recall) {
                json.insert(format!("recall@{k}"), (*recall).into());
            }
            for (k, hit) in self.ks.iter().zip(&mean.hit) {
                json.insert(format!("hit@{k}"), (*hit).into());
            }
            json.insert("mrr".into(), mean.mrr.into());
            json.insert(format!("ndcg@{NDCG_CUT}"), mean.ndcg.into());
            Value::Object(json)
        };
        let groups = measured.iter().map(|(name, queries, mean)| (name.clone(), measures(*queries, mean)));
        json!({
            "retrieval": groups.collect::<Map<String, Value>>(),
            "queries_without_relevant": left_out,
            "ranker": ranker,
        })
    }
}

/// The ranker's answers to pairs of a request and a product, against their labels.
fn ranker(
    engine: &Engine,
    products: &Products,
    pairs: &Requests,
    expected: &[(Hit, bool)],
) -> Result<Classification, Failure> {
    let Some(rows) = products.ranker_rows() else {
        return Err(Failure::new("the queries have labels for a ranker, which this model does not have"));
    };
    let mut scored = Vec::with_capacity(pairs.len());
    pairs.in_chunks("ranking", |range, requests| {
        let hits: Vec<[Hit; 1]> = expected[range.clone()].iter().map(|(hit, _)| [*hit]).collect();
        let ranked = engine.rank(requests, &hits, rows)?;
        let labels = expected[range].iter().map(|(_, label)| *label);
        scored.extend(ranked.iter().flatten().map(|ranked| ranked.rank_score).zip(labels));
        Ok(())
    })?;
    Ok(Classification::of(&scored))
}

/// Reads what is known of queries.
struct Truths<'a> {
    path: &'a Path,
    products: &'a Products,
    /// The catalogue's lines, read when the first `match` needs them.
    lines: Option<Vec<Map<String, Value>>>,
    /// The rows that each `match` means, by its JSON.
    matches: HashMap<String, Rows>,
}

impl Truths<'_> {
    fn of(&mut self, record: &Record) -> Result<Truth, Failure> {
        self.read(&record.json).map_err(|failure| failure.at(&place(self.path, record.line)))
    }

    fn read(&mut self, json: &Map<String, Value>) -> Result<Truth, Failure> {
        match (json.get("relevant"), json.get("match"), json.get("item")) {
            (Some(relevant), None, None) => {
                let ids = relevant
                    .as_array()
                    .ok_or_else(|| Failure::new("field relevant: expected an array of ids"))?;
                let rows = ids.iter().map(|id| self.row("relevant", id)).collect::<Result<_, _>>()?;
                Ok(Truth::Relevant(Rc::new(rows)))
            }
            (None, Some(wanted), None) => {
                let wanted = wanted.as_object().filter(|wanted| !wanted.is_empty());
                let wanted =
                    wanted.ok_or_else(|| Failure::new("field match: expected an object with fields"))?;
                Ok(Truth::Relevant(self.matching(wanted)?))
            }
            (None, None, Some(id)) => {
                let row = self.row("item", id)?;
                let label = match json.get("label").and_then(Value::as_u64) {
                    Some(0) => false,
                    Some(1) => true,
                    _ => return Err(Failure::new("field label: expected 0 or 1")),
                };
                Ok(Truth::Pair(Hit { id: self.products.catalogue().ids()[row], row, score: 0.0 }, label))
            }
            _ => Err(Failure::new("expected one of the fields relevant, match and item")
                .hint("`mercer eval --help` shows what queries look like")),
        }
    }

    fn row(&self, field: &str, id: &Value) -> Result<usize, Failure> {
        let row = id.as_i64().and_then(|id| self.products.catalogue().row_of(id));
        row.ok_or_else(|| Failure::new(format!("field {field}: {id} is not the id of a product")))
    }

    /// The products whose lines have all of these values.
    fn matching(&mut self, wanted: &Map<String, Value>) -> Result<Rows, Failure> {
        let lines = match &mut self.lines {
            Some(lines) => lines,
            unread => {
                let lines = (0..self.products.len()).map(|row| self.products.item(row));
                unread.insert(lines.collect::<Result<_, _>>()?)
            }
        };
        let key = Value::Object(wanted.clone()).to_string();
        let rows = self.matches.entry(key).or_insert_with(|| {
            let all =
                |line: &Map<String, Value>| wanted.iter().all(|(name, value)| line.get(name) == Some(value));
            Rc::new((0..lines.len()).filter(|&row| all(&lines[row])).collect())
        });
        Ok(rows.clone())
    }
}
