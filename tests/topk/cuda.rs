//! What the device alone has: other precisions, plans, numbers of queries known when the work runs, refusals.

use std::sync::OnceLock;

use half::{bf16, f16};
use mercer::cuda::topk::{Corpus, MOST_WORKSPACE, Plan, enqueue};
use mercer::cuda::{CudaError, Device, DeviceInfo, Rows, Slice, Stream};

use super::*;

fn open() -> Option<Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    DEVICE.get_or_init(device::device).clone()
}

/// A corpus on the device.
pub struct Search<'a> {
    stream: Stream,
    corpus: Corpus,
    ids: &'a [i64],
    card: DeviceInfo,
    workspace: usize,
}

impl<'a> Search<'a> {
    pub fn new(dim: usize, rows: &[f32], ids: &'a [i64], precision: Precision) -> Option<Search<'a>> {
        let device = open()?;
        let stream = device.stream().unwrap();
        let corpus = Corpus::upload(&stream, dim, rows, ids, precision).unwrap();
        Some(Search { stream, corpus, ids, card: device.info().clone(), workspace: MOST_WORKSPACE })
    }

    /// Plans as if the card had that many multiprocessors.
    fn on(mut self, multiprocessors: u32) -> Search<'a> {
        self.card.multiprocessors = multiprocessors;
        self
    }

    pub fn run(&self, queries: &[f32], k: usize) -> Vec<Vec<Hit>> {
        let batch = queries.len() / self.corpus.dim();
        let buffers = self.buffers(batch, k);
        self.stream.upload_to(queries, &buffers.queries).unwrap();
        let count = Rows::exactly(&self.stream, batch).unwrap();
        buffers.enqueue(self, &count).unwrap();
        self.hits(&buffers, k)
    }

    fn hits(&self, buffers: &Buffers, k: usize) -> Vec<Vec<Hit>> {
        let keys = self.stream.download(&buffers.keys).unwrap();
        keys.chunks(k).map(|keys| self.corpus.hits(self.ids, keys)).collect()
    }

    /// All poisoned but the queries, which are zeros.
    fn buffers(&self, most: usize, k: usize) -> Buffers {
        let plan = Plan::within(self.workspace, &self.corpus, k, most, &self.card).unwrap();
        assert!(plan.workspace() <= self.workspace);
        let device = self.stream.device();
        let queries = self.stream.upload("queries", &vec![0.0; most * self.corpus.dim()]).unwrap();
        let workspace = Slice::new(device, "workspace", plan.workspace()).unwrap();
        let keys = Slice::new(device, "keys", most * k).unwrap();
        self.stream.fill(&workspace, 0xA5).unwrap();
        self.stream.fill(&keys, 0xA5).unwrap();
        Buffers { plan, queries, workspace, keys }
    }
}

struct Buffers {
    plan: Plan,
    queries: Slice<f32>,
    workspace: Slice<u8>,
    keys: Slice<u64>,
}

impl Buffers {
    fn enqueue(&self, search: &Search<'_>, count: &Rows) -> Result<(), CudaError> {
        self.enqueue_on(&search.stream, search, count)
    }

    fn enqueue_on(&self, stream: &Stream, search: &Search<'_>, count: &Rows) -> Result<(), CudaError> {
        let Buffers { plan, queries, workspace, keys } = self;
        enqueue(stream, plan, &search.corpus, count, queries, workspace, keys)
    }
}

const POISON: u64 = 0xA5A5_A5A5_A5A5_A5A5;

/// Rows of a step, steps of a partition, with every number of queries per warp and groups of warps.
#[test]
fn rows_and_queries_at_every_edge() {
    if open().is_none() {
        return;
    }
    for n in [0, 1, 7, 8, 9, 127, 128, 129, 255, 257, 513, 1537] {
        for batch in [1, 3, 5] {
            let (queries, rows) = (coarse(1, batch * 3), coarse(2, n * 3));
            check_scan("edges", 3, &queries, &rows, &shuffled_ids(n), 10);
        }
    }
    let (rows, ids) = (coarse(2, 300 * 33), shuffled_ids(300));
    for batch in [0, 1, 2, 4, 7, 8, 9, 16, 17, 31, 32, 33, 64, 100] {
        check_scan("batch", 33, &coarse(3, batch * 33), &rows, &ids, 5);
    }
}

/// Around the lanes of a warp, the spare places of a buffer, the keys that are sorted in shared memory, and no power of
/// two among them; buffers are cut again and again where scores rise.
#[test]
fn k_at_every_edge() {
    if open().is_none() {
        return;
    }
    let n = 9000u16;
    let rising: Vec<f32> = (1..=n).map(f32::from).collect();
    let ids: Vec<i64> = (0..i64::from(n)).collect();
    for k in [1, 31, 33, 511, 513, 1025, 4096, 4097, 8999, 9000, 9001, 65_536] {
        for multiprocessors in [1, 132] {
            let what = format!("k {k} on {multiprocessors}");
            let search = Search::new(1, &rising, &ids, Precision::F32).unwrap().on(multiprocessors);
            let expected = oracle_scan(1, &[1.0, -1.0], &rising, &ids, k);
            assert_same_hits(&what, &search.run(&[1.0, -1.0], k), &expected);
        }
    }
}

/// Few rows, and still more than the buffers hold: small enough for the race detector.
#[test]
fn buffers_are_cut() {
    if open().is_none() {
        return;
    }
    let n = 3000u16;
    let rising: Vec<f32> = (1..=n).map(f32::from).collect();
    let ids = shuffled_ids(usize::from(n));
    let search = Search::new(1, &rising, &ids, Precision::F32).unwrap().on(1);
    let expected = oracle_scan(1, &[1.0, -1.0], &rising, &ids, 20);
    assert_same_hits("cut", &search.run(&[1.0, -1.0], 20), &expected);
}

/// Scores are of the rows as they are stored.
#[test]
fn stored_precisions() {
    if open().is_none() {
        return;
    }
    for dim in DIMS {
        let (n, batch) = (if dim > 1000 { 20 } else { 150 }, 5);
        let (queries, rows, ids) = (uniform(1, batch * dim), uniform(2, n * dim), shuffled_ids(n));
        let half: Vec<f32> = rows.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
        let brain: Vec<f32> = rows.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        for (precision, stored) in [(Precision::F16, half), (Precision::Bf16, brain)] {
            let search = Search::new(dim, &rows, &ids, precision).unwrap();
            for batch in [1, 3, 5] {
                let queries = &queries[..batch * dim];
                let expected = oracle_scan(dim, queries, &stored, &ids, 20);
                let what = format!("{precision:?}, dim {dim}, batch {batch}");
                assert_same_hits(&what, &search.run(queries, 20), &expected);
            }
        }
    }
    // Subnormal halves are values like any other.
    let rows: Vec<f32> = uniform(3, 300).iter().map(|x| x * 2.0f32.powi(-16)).collect();
    let stored: Vec<f32> = rows.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
    let ids = shuffled_ids(300);
    let found = Search::new(1, &rows, &ids, Precision::F16).unwrap().run(&[1.0], 300);
    assert_same_hits("subnormal", &found, &oracle_scan(1, &[1.0], &stored, &ids, 300));
}

/// The answer is the same however the work is cut: by partitions, by tiles, by groups of launches.
#[test]
fn the_card_and_the_batch_do_not_matter() {
    if open().is_none() {
        return;
    }
    let (dim, n, k, batch) = (20, 1500, 40, 33);
    let (queries, rows, ids) = (coarse(1, batch * dim), coarse(2, n * dim), shuffled_ids(n));
    let expected = oracle_scan(dim, &queries, &rows, &ids, k);
    for multiprocessors in [1, 3, 132] {
        let search = Search::new(dim, &rows, &ids, Precision::F32).unwrap().on(multiprocessors);
        for size in [1, 7, 33] {
            let parts = queries.chunks(size * dim).take(3);
            let found: Vec<_> = parts.flat_map(|queries| search.run(queries, k)).collect();
            let what = format!("{multiprocessors} multiprocessors, batch {size}");
            assert_same_hits(&what, &found, &expected[..found.len()]);
        }
    }
    // Less shared memory, so other tiles.
    let (queries, rows) = (uniform(1, 9 * 4096), uniform(2, 20 * 4096));
    let expected = oracle_scan(4096, &queries, &rows, &ids[..20], k);
    for shared_memory in [48 << 10, 99 << 10, 163 << 10, 227 << 10] {
        let mut search = Search::new(4096, &rows, &ids[..20], Precision::F32).unwrap();
        search.card.shared_memory = search.card.shared_memory.min(shared_memory);
        assert_same_hits("shared memory", &search.run(&queries, k), &expected);
    }
}

/// More queries than the workspace has room for at once, and bounds that are no other query's. (The unit tests of the plan
/// know that so it is.)
#[test]
fn several_groups_of_launches() {
    if open().is_none() {
        return;
    }
    let (n, k, batch) = (3000, 20, 40);
    let (rows, ids) = (uniform(1, n), shuffled_ids(n));
    let mut search = Search::new(1, &rows, &ids, Precision::F32).unwrap().on(1);
    search.workspace = 80_000;
    let some = [1.0, -1.0, 0.5, -0.25, 2.0, -3.0, 0.75];
    let queries: Vec<f32> = some.iter().cycle().take(batch).copied().collect();
    let expected = oracle_scan(1, &queries, &rows, &ids, k);
    assert_same_hits("many queries", &search.run(&queries, k), &expected);
    // Too little for one query.
    let error = Plan::within(4000, &search.corpus, k, batch, &search.card).unwrap_err();
    assert!(matches!(error, CudaError::Limit { what: "bytes for one query", .. }), "{error}");
}

/// So many keys that several blocks merge them before one does, with fewer and with more rows in a block than hits.
#[test]
fn merges_in_two_levels() {
    if open().is_none() {
        return;
    }
    let n = 22_000u16;
    let rising: Vec<f32> = (1..=n).map(f32::from).collect();
    let ids = shuffled_ids(usize::from(n));
    let search = Search::new(1, &rising, &ids, Precision::F32).unwrap().on(132);
    for k in [100, 300, 1000] {
        let expected = oracle_scan(1, &[1.0, -1.0], &rising, &ids, k);
        assert_same_hits(&format!("k {k}"), &search.run(&[1.0, -1.0], k), &expected);
    }
}

/// A plan for a `k` has the answers for smaller ones in front.
#[test]
fn a_plan_answers_every_smaller_k() {
    if open().is_none() {
        return;
    }
    let (dim, n) = (6, 1500);
    let (queries, rows, ids) = (coarse(1, 3 * dim), coarse(2, n * dim), shuffled_ids(n));
    let search = Search::new(dim, &rows, &ids, Precision::F32).unwrap();
    let buffers = search.buffers(3, 64);
    search.stream.upload_to(&queries, &buffers.queries).unwrap();
    buffers.enqueue(&search, &Rows::exactly(&search.stream, 3).unwrap()).unwrap();
    let keys = search.stream.download(&buffers.keys).unwrap();
    for k in [1, 2, 33, 63, 64] {
        let found: Vec<_> = keys.chunks(64).map(|keys| search.corpus.hits(&ids, &keys[..k])).collect();
        assert_same_hits(&format!("k {k}"), &found, &oracle_scan(dim, &queries, &rows, &ids, k));
    }
}

/// A number of queries beyond the most is the most: nothing behind the workspace and the answers is written.
#[test]
fn more_queries_than_there_is_room_for() {
    if open().is_none() {
        return;
    }
    let (dim, n, k) = (3, 700, 20);
    let (rows, ids) = (coarse(2, n * dim), shuffled_ids(n));
    let search = Search::new(dim, &rows, &ids, Precision::F32).unwrap();
    for most in [1, 3, 5, 9, 33] {
        let queries = coarse(1, (most + 32) * dim);
        let mut buffers = search.buffers(most, k);
        let device = search.stream.device();
        let all_queries = search.stream.upload("queries", &queries).unwrap();
        let all_words = Slice::<u8>::new(device, "workspace", buffers.plan.workspace() + (1 << 20)).unwrap();
        let all_keys = Slice::<u64>::new(device, "keys", (most + 32) * k).unwrap();
        search.stream.fill(&all_words, 0xA5).unwrap();
        search.stream.fill(&all_keys, 0xA5).unwrap();
        buffers.queries = all_queries.part(0..most * dim).unwrap();
        buffers.workspace = all_words.part(0..buffers.plan.workspace()).unwrap();
        buffers.keys = all_keys.part(0..most * k).unwrap();
        let count = search.stream.upload("count", &[u32::MAX]).unwrap();
        buffers.enqueue(&search, &Rows::new(most, count).unwrap()).unwrap();
        let expected = oracle_scan(dim, &queries[..most * dim], &rows, &ids, k);
        assert_same_hits(&format!("{most} queries"), &search.hits(&buffers, k), &expected);
        let words = search.stream.download(&all_words).unwrap();
        assert!(words[buffers.plan.workspace()..].iter().all(|&byte| byte == 0xA5), "{most} queries");
        let keys = search.stream.download(&all_keys).unwrap();
        assert!(keys[most * k..].iter().all(|&key| key == POISON), "{most} queries");
    }
}

/// One recorded graph answers any number of queries, again and again, and leaves what lies behind the number alone.
#[test]
fn a_graph_serves_every_count() {
    if open().is_none() {
        return;
    }
    let (dim, n, k, most) = (9, 2000, 70, 12);
    let (rows, ids) = (coarse(2, n * dim), shuffled_ids(n));
    let search = Search::new(dim, &rows, &ids, Precision::F32).unwrap();
    let (buffers, count) = (search.buffers(most, k), search.stream.upload("count", &[0u32]).unwrap());
    let batch = Rows::new(most, count.clone()).unwrap();
    let graph = search.stream.record(|stream| buffers.enqueue_on(stream, &search, &batch)).unwrap();
    for (round, number) in [12usize, 1, 0, 5, 8, 12].into_iter().enumerate() {
        let mut queries = coarse(round as u64, most * dim);
        let expected = oracle_scan(dim, &queries[..number * dim], &rows, &ids, k);
        queries[number * dim..].fill(f32::NAN);
        search.stream.upload_to(&queries, &buffers.queries).unwrap();
        search.stream.upload_to(&[u32::try_from(number).unwrap()], &count).unwrap();
        search.stream.fill(&buffers.keys, 0xA5).unwrap();
        graph.launch().unwrap();
        let found = search.hits(&buffers, k);
        assert_same_hits(&format!("{number} queries"), &found[..number], &expected);
        let keys = search.stream.download(&buffers.keys).unwrap();
        assert!(keys[number * k..].iter().all(|&key| key == POISON), "{number} queries");
    }
}

/// A query that holds NaN has no hits, and its neighbours have theirs.
#[test]
fn queries_that_are_not_finite() {
    if open().is_none() {
        return;
    }
    let (dim, n, k) = (5, 700, 600);
    let (mut queries, rows, ids) = (uniform(1, 4 * dim), uniform(2, n * dim), shuffled_ids(n));
    let mut expected = oracle_scan(dim, &queries, &rows, &ids, k);
    queries[dim + 2] = f32::NAN;
    expected[1].clear();
    let found = Search::new(dim, &rows, &ids, Precision::F32).unwrap().run(&queries, k);
    assert_same_hits("NaN", &found, &expected);
}

/// Every way the arguments can disagree.
#[test]
fn refusals() {
    let Some(device) = open() else { return };
    let stream = device.stream().unwrap();
    let upload = |dim, rows: &[f32], ids: &[i64], precision| {
        Corpus::upload(&stream, dim, rows, ids, precision).map(drop).unwrap_err().to_string()
    };
    assert!(upload(2, &[1.0; 3], &[0], Precision::F32).contains("vectors has 3 elements"));
    assert!(upload(0, &[], &[], Precision::F32).contains("vector length 0"));
    assert!(upload(4097, &[], &[], Precision::F32).contains("vector length 4097"));
    assert!(upload(1, &[1.0, -7e4], &[0, 1], Precision::F16).contains("70000 is beyond the limit of 65504"));

    let (rows, ids) = (uniform(1, 30), shuffled_ids(10));
    let search = Search::new(3, &rows, &ids, Precision::F32).unwrap();
    for k in [0, 65_537] {
        let error = Plan::new(&search.corpus, k, 1, &search.card).unwrap_err();
        assert!(matches!(error, CudaError::Limit { what: "k", .. }), "{error}");
    }
    let text = |buffers: &Buffers, most| {
        let count = Rows::exactly(&stream, most).unwrap();
        buffers.enqueue(&search, &count).unwrap_err().to_string()
    };
    let buffers = || search.buffers(2, 4);
    assert!(text(&buffers(), 3).contains("most queries"));
    let short = |what: &str, buffers: Buffers| assert!(text(&buffers, 2).starts_with(what), "{what}");
    short("queries", Buffers { queries: stream.upload("", &[0.0; 5]).unwrap(), ..buffers() });
    short("keys", Buffers { keys: stream.upload("", &[0; 9]).unwrap(), ..buffers() });
    short("workspace", Buffers { workspace: stream.upload("", &[0; 8]).unwrap(), ..buffers() });
    let other = Search::new(3, &rows[..27], &ids[..9], Precision::F32).unwrap();
    short("corpus", Buffers { plan: Plan::new(&other.corpus, 4, 2, &other.card).unwrap(), ..buffers() });
    let other = Search::new(2, &rows[..20], &ids, Precision::F32).unwrap();
    short(
        "row of the corpus",
        Buffers { plan: Plan::new(&other.corpus, 4, 2, &other.card).unwrap(), ..buffers() },
    );
    let other = Search::new(3, &rows, &ids, Precision::F16).unwrap();
    short("corpus", Buffers { plan: Plan::new(&other.corpus, 4, 2, &other.card).unwrap(), ..buffers() });
}
