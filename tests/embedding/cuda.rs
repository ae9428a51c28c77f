//! The cases on the device, held to the bits of the CPU.

use mercer::cpu::embedding::{Pooling, UnknownId};
use mercer::cuda::embedding::{self, Lookup, first_unknown};
use mercer::cuda::{CudaError, Rows, Slice, Stream, Tensor};
use proptest::prelude::*;

use super::cases::{self, Case, CaseBags, random_ids};
use super::oracle::Random;
use super::*;

/// The byte of memory that nothing may write.
const POISON: u8 = 0xA5;

/// How a case lies in the memory of a device.
#[derive(Clone, Copy)]
struct Layout {
    table: Precision,
    output: Precision,
    /// Elements before the table and the output.
    shift: usize,
    /// Entries that there is room for behind those there are.
    spare: usize,
}

const PLAIN: Layout = Layout { table: Precision::F32, output: Precision::F32, shift: 0, spare: 0 };

/// Storage of table and output.
fn layouts(shift: usize, spare: usize) -> Vec<Layout> {
    let all = Precision::ALL;
    all.iter().flat_map(|&table| all.map(|output| Layout { table, output, shift, spare })).collect()
}

/// A lookup, and the memory around its output.
struct Job<'a> {
    case: &'a Case,
    layout: Layout,
    lookup: Lookup,
    memory: Tensor,
}

impl<'a> Job<'a> {
    fn new(stream: &Stream, case: &'a Case, layout: Layout, stage: u16) -> Job<'a> {
        let Layout { shift, spare, .. } = layout;
        let most = case.items() + spare;
        let table = [vec![f32::NAN; shift], case.table.clone()].concat();
        let table = Tensor::upload(stream, "table", layout.table, &table).unwrap();
        let values = shift + most * case.width + shift;
        let bytes = Slice::<u8>::new(stream.device(), "output", values * layout.output.bytes()).unwrap();
        stream.fill(&bytes, POISON).unwrap();
        let memory = Tensor::over(bytes, layout.output).unwrap();
        let count = [u32::try_from(case.items()).unwrap()];
        let mut ids = case.ids.clone();
        let bags = case.bags.as_ref().map(|bags| {
            let mut offsets: Vec<u64> = bags.offsets.iter().map(|&offset| offset as u64).collect();
            offsets.resize(most + 1, u64::MAX);
            embedding::Bags {
                offsets: stream.upload("offsets", &offsets).unwrap(),
                weights: bags.weights.as_ref().map(|weights| stream.upload("weights", weights).unwrap()),
                pooling: bags.pooling,
                padding_id: bags.padding_id,
            }
        });
        if bags.is_none() {
            ids.resize(most, i64::MIN);
        }
        let lookup = Lookup {
            table: table.part(shift..shift + case.table.len()).unwrap(),
            table_rows: case.rows(),
            width: case.width,
            items: Rows::new(most, stream.upload("count", &count).unwrap()).unwrap(),
            ids: stream.upload("ids", &ids).unwrap(),
            bags,
            unknown: case.unknown,
            output: memory.part(shift..shift + most * case.width).unwrap(),
            stage,
        };
        Job { case, layout, lookup, memory }
    }

    fn what(&self) -> String {
        let Layout { table, output, shift, spare } = self.layout;
        format!("{}, {table:?} to {output:?}, shifted by {shift}, {spare} spare", self.case.what)
    }

    /// The output, `[entries, width]`; nothing else has been written.
    fn output(&self, stream: &Stream) -> Vec<f32> {
        let values = self.memory.download(stream).unwrap();
        let poison = match self.layout.output {
            Precision::F32 => f32::from_bits(0xA5A5_A5A5),
            Precision::F16 => f16::from_bits(0xA5A5).to_f32(),
            Precision::Bf16 => bf16::from_bits(0xA5A5).to_f32(),
        };
        let written = self.layout.shift..self.layout.shift + self.case.items() * self.case.width;
        let bad = (0..values.len()).find(|at| !written.contains(at) && values[*at] != poison);
        assert_eq!(bad, None, "{}: written outside {written:?}", self.what());
        values[written].to_vec()
    }

    /// The output is what the CPU makes of the case.
    fn check(&self, stream: &Stream) {
        let table = Tables::new(self.case);
        let expected = on_cpu(self.case, &table.get(self.layout.table), Isa::best()).unwrap();
        let expected = rounded(&expected, self.layout.output);
        assert_same(&self.what(), &self.output(stream), &expected, &self.case.shape());
    }
}

fn run(stream: &Stream, jobs: &[Job<'_>]) -> u64 {
    let fault = stream.upload("fault", &[u64::MAX]).unwrap();
    let lookups: Vec<Lookup> = jobs.iter().map(|job| job.lookup.clone()).collect();
    embedding::enqueue(stream, &lookups, &fault).unwrap();
    stream.download(&fault).unwrap()[0]
}

fn fault_of(stage: u16, row: u64) -> u64 {
    u64::from(stage) << 48 | row
}

/// Every case in turn, its table and output in every type: nine lookups of a launch.
#[track_caller]
fn device_equals_cpu(cases: &[Case]) {
    let Some(device) = device::device() else { return };
    let stream = device.stream().unwrap();
    for case in cases {
        let jobs: Vec<Job<'_>> =
            layouts(0, 0).into_iter().map(|layout| Job::new(&stream, case, layout, 3)).collect();
        assert_eq!(run(&stream, &jobs), u64::MAX, "{}", case.what);
        jobs.iter().for_each(|job| job.check(&stream));
    }
}

#[test]
fn widths() {
    device_equals_cpu(&cases::widths());
}

#[test]
fn batches() {
    device_equals_cpu(&cases::batches());
}

#[test]
fn empty_bags() {
    device_equals_cpu(&cases::empty_bags());
}

#[test]
fn unknown_ids_that_read_a_row() {
    device_equals_cpu(&cases::unknown_ids());
}

#[test]
fn special_values() {
    device_equals_cpu(&cases::special_values());
}

/// Tables and outputs that start anywhere: 16-byte access must be left alone where it does not fit.
#[test]
fn memory_that_is_not_aligned() {
    let Some(device) = device::device() else { return };
    let stream = device.stream().unwrap();
    for width in [4, 8, 9, 24] {
        let mut list =
            vec![Case::gather("gather", width, Random::new(4).values(7 * width), random_ids(40, 7))];
        list.extend(Case::all_bags(&[3, 0, 12], 6, width, None));
        for shift in [1, 2, 3, 4, 7, 8, 9] {
            for case in &list {
                let jobs: Vec<Job<'_>> =
                    layouts(shift, 0).into_iter().map(|layout| Job::new(&stream, case, layout, 0)).collect();
                assert_eq!(run(&stream, &jobs), u64::MAX);
                jobs.iter().for_each(|job| job.check(&stream));
            }
        }
    }
}

/// Fewer entries than there is room for: what lies behind them is not looked at, and their outputs not touched.
#[test]
fn entries_behind_the_count_are_left_alone() {
    let Some(device) = device::device() else { return };
    let stream = device.stream().unwrap();
    for items in [0, 1, 5, 300] {
        for width in [5, 8] {
            let mut list =
                vec![Case::gather("gather", width, Random::new(4).values(9 * width), random_ids(items, 9))];
            list.extend(Case::all_bags(&vec![2; items], 9, width, Some(2)));
            for case in &list {
                for spare in [1, 700] {
                    let jobs: Vec<Job<'_>> = layouts(1, spare)
                        .into_iter()
                        .map(|layout| Job::new(&stream, case, layout, 0))
                        .collect();
                    assert_eq!(run(&stream, &jobs), u64::MAX);
                    jobs.iter().for_each(|job| job.check(&stream));
                }
            }
        }
    }
}

/// Tables of all types, widths and ways to pool side by side, more of them than a launch takes; some without work.
#[test]
fn many_tables() {
    let Some(device) = device::device() else { return };
    let stream = device.stream().unwrap();
    let cases: Vec<Case> = cases::cases().into_iter().filter(|case| case.items() < 400).collect();
    let mut random = Random::new(6);
    for count in [0, 1, 2, 15, 16, 17, 33, 100] {
        let jobs: Vec<Job<'_>> = (0..count)
            .map(|stage| {
                let case = &cases[random.below(cases.len())];
                let layout = layouts(random.below(2), random.below(2))[random.below(9)];
                Job::new(&stream, case, layout, u16::try_from(stage).unwrap())
            })
            .collect();
        assert_eq!(run(&stream, &jobs), u64::MAX, "{count} lookups");
        jobs.iter().for_each(|job| job.check(&stream));
    }
}

/// The least entry with an id outside the table is named, whatever runs first, wherever the id is in it, and the
/// entries without one are right.
#[test]
fn refused_ids() {
    let Some(device) = device::device() else { return };
    let stream = device.stream().unwrap();
    for id in [3, -1, i64::MAX, i64::MIN, 1 << 32, -(1 << 32) + 1] {
        for width in [3, 8, 260] {
            let table = Random::new(4).values(3 * width);
            for bad in [&[0][..], &[39], &[17, 38], &[0, 1, 2, 39]] {
                let mut ids = random_ids(40, 3);
                bad.iter().for_each(|&at| ids[at] = id);
                let mut list = vec![Case::gather("refused", width, table.clone(), ids.clone())];
                for case in Case::all_bags(&[1; 40], 3, width, Some(2)) {
                    list.push(Case { ids: ids.clone(), ..case });
                }
                check_refused(&stream, &list, |at| bad.contains(&at));
            }
            for place in 0..19 {
                let list: Vec<Case> = Case::all_bags(&[4, 0, 19, 3], 3, width, Some(5))
                    .map(|case| {
                        let mut ids = vec![1; 26];
                        ids[4 + place] = id;
                        Case { ids, ..case }
                    })
                    .collect();
                check_refused(&stream, &list, |at| at == 2);
                assert_eq!(first_unknown(&list[0].ids[4..23], 3, Some(5)), Some((place, id)));
            }
        }
    }
}

/// What the device makes of a case with ids that are refused: zeros in a gather, padding in a bag.
fn without_refused(case: &Case) -> Vec<f32> {
    let padding_id = case.bags.as_ref().and_then(|bags| bags.padding_id);
    let known = |at: usize| first_unknown(&case.ids[at..=at], case.rows(), padding_id).is_none();
    let mut one = case.clone();
    let Some(CaseBags { offsets, weights, .. }) = &mut one.bags else {
        one.unknown = UnknownId::Row(0);
        let mut rows = on_cpu(&one, &Tables::new(case).get(Precision::F32), Isa::best()).unwrap();
        let rows_of_ids = rows.chunks_mut(case.width).enumerate();
        rows_of_ids.filter(|&(at, _)| !known(at)).for_each(|(_, row)| row.fill(0.0));
        return rows;
    };
    let kept: Vec<usize> = (0..case.ids.len()).filter(|&at| known(at)).collect();
    for offset in offsets {
        *offset = kept.iter().filter(|&&at| at < *offset).count();
    }
    if let Some(weights) = weights {
        *weights = kept.iter().map(|&at| weights[at]).collect();
    }
    one.ids = kept.iter().map(|&at| case.ids[at]).collect();
    on_cpu(&one, &Tables::new(case).get(Precision::F32), Isa::best()).unwrap()
}

fn check_refused(stream: &Stream, list: &[Case], refused: impl Fn(usize) -> bool) {
    for (stage, case) in (5..).zip(list) {
        let job = Job::new(stream, case, Layout { shift: 4, spare: 3, ..PLAIN }, stage);
        let first = (0..case.items()).find(|&at| refused(at)).unwrap();
        let fault = run(stream, std::slice::from_ref(&job));
        assert_eq!(fault, fault_of(stage, first as u64), "{}", job.what());
        assert_same(&job.what(), &job.output(stream), &without_refused(case), &case.shape());
    }
}

/// Of several lookups with refused ids, the least stage; a table without rows refuses every id and is not read.
#[test]
fn the_least_stage_is_reported() {
    let Some(device) = device::device() else { return };
    let stream = device.stream().unwrap();
    let good = Case::gather("good", 4, vec![1.0; 8], vec![0, 1]);
    let bad = Case::gather("bad", 4, vec![1.0; 8], vec![0, 1, 2]);
    let none = Case::gather("no rows", 4, Vec::new(), vec![0, 1]);
    let jobs = [(&good, 1), (&bad, 9), (&bad, 4), (&none, 7)]
        .map(|(case, stage)| Job::new(&stream, case, PLAIN, stage));
    assert_eq!(run(&stream, &jobs), fault_of(4, 2));
    assert_eq!(run(&stream, &jobs[3..]), fault_of(7, 0));
    jobs[0].check(&stream);
}

/// Offsets that no caller should send: what ends behind the ids is cut off, what ends before it starts is empty, and
/// memory behind the ids is not read though it is there.
#[test]
fn wrong_offsets_stay_in_bounds() {
    let Some(device) = device::device() else { return };
    let stream = device.stream().unwrap();
    for case in Case::all_bags(&[2, 43], 3, 8, None) {
        let ids = case.ids.len();
        for offsets in [
            [0, 45, u64::MAX],
            [u64::MAX, 0, 45],
            [90, 70, 1 << 40],
            [45, 45, 46],
            [45, 0, 45],
            [3, 44, 43],
            [0, 1 << 63, 9],
            [u64::MAX - 3, u64::MAX, u64::MAX - 7],
        ] {
            let mut job = Job::new(&stream, &case, Layout { shift: 4, ..PLAIN }, 0);
            let longer = [case.ids.clone(), vec![1; 64]].concat();
            job.lookup.ids = stream.upload("ids", &longer).unwrap().part(0..ids).unwrap();
            stream.upload_to(&offsets, &job.lookup.bags.as_ref().unwrap().offsets).unwrap();
            assert_eq!(run(&stream, std::slice::from_ref(&job)), u64::MAX);
            let what = format!("{}, offsets {offsets:?}", job.what());
            for (at, found) in job.output(&stream).chunks(8).enumerate() {
                let [start, end] = [at, at + 1].map(|at| usize::try_from(offsets[at]).unwrap().min(ids));
                let bag = start..end.max(start);
                let mut one = Case { ids: case.ids[bag.clone()].to_vec(), ..case.clone() };
                let bags = one.bags.as_mut().unwrap();
                bags.offsets = vec![0, bag.len()];
                bags.weights = bags.weights.as_ref().map(|weights| weights[bag].to_vec());
                let expected = on_cpu(&one, &Tables::new(&case).get(Precision::F32), Isa::best()).unwrap();
                assert_bits(&format!("{what}, bag {at}"), found, &expected, &[8]);
            }
        }
    }
}

/// A count beyond the room is the room.
#[test]
fn counts_beyond_the_room() {
    let Some(device) = device::device() else { return };
    let stream = device.stream().unwrap();
    for width in [3, 8] {
        let mut list =
            vec![Case::gather("gather", width, Random::new(4).values(7 * width), random_ids(40, 7))];
        list.extend(Case::all_bags(&[2; 40], 7, width, None));
        for case in &list {
            for count in [41, 1 << 10, u32::MAX] {
                let mut job = Job::new(&stream, case, Layout { shift: 4, ..PLAIN }, 0);
                job.lookup.items = Rows::new(40, stream.upload("count", &[count]).unwrap()).unwrap();
                assert_eq!(run(&stream, std::slice::from_ref(&job)), u64::MAX);
                job.check(&stream);
            }
        }
    }
}

/// More entries than a small card takes in one turn, and ids refused in any turn: the least entry is named.
#[test]
fn entries_of_later_turns() {
    let Some(device) = device::device_with(1) else { return };
    let stream = device.stream().unwrap();
    let multiprocessors = device.info().multiprocessors as usize;
    // What a turn of `embedding.cu` takes, of rows that are one vector and of rows of three.
    for (bags, turn) in [(false, 32 * 1024 * multiprocessors), (true, 32 * 128 * multiprocessors)] {
        for width in [1, 3] {
            let items = 2 * turn / width + 70;
            let case = if bags {
                Case::bags(&vec![1; items], 40, width, (Pooling::Mean, false), None)
            } else {
                let table = Random::new(21).values(40 * width);
                Case::gather("later turns", width, table, random_ids(items, 40))
            };
            let job = Job::new(&stream, &case, Layout { spare: 5, ..PLAIN }, 2);
            assert_eq!(run(&stream, std::slice::from_ref(&job)), u64::MAX);
            job.check(&stream);
            let mut ids = case.ids.clone();
            for at in [items - 1, turn / width + 9] {
                ids[at] = -7;
                stream.upload_to(&ids, &job.lookup.ids.part(0..items).unwrap()).unwrap();
                assert_eq!(run(&stream, std::slice::from_ref(&job)), fault_of(2, at as u64));
            }
        }
    }
}

/// Bags of many groups of ids: sums in order, and the entry of an id that is refused, wherever in the bag it is.
#[test]
fn long_bags() {
    let Some(device) = device::device() else { return };
    let stream = device.stream().unwrap();
    for width in [3, 8] {
        for case in Case::all_bags(&[700, 1, 517], 50, width, Some(2)) {
            let job = Job::new(&stream, &case, Layout { spare: 2, ..PLAIN }, 6);
            assert_eq!(run(&stream, std::slice::from_ref(&job)), u64::MAX);
            job.check(&stream);
            let last = case.ids.len() - 1;
            for (at, bag) in [(last, 2), (702, 2), (701, 2), (700, 1), (699, 0), (396, 0), (8, 0), (0, 0)] {
                let mut ids = case.ids.clone();
                ids[at] = 50;
                stream.upload_to(&ids, &job.lookup.ids).unwrap();
                assert_eq!(run(&stream, std::slice::from_ref(&job)), fault_of(6, bag as u64), "id {at}");
                let offsets = &case.bags.as_ref().unwrap().offsets;
                let ids = &ids[offsets[bag]..offsets[bag + 1]];
                assert_eq!(first_unknown(ids, 50, Some(2)), Some((at - offsets[bag], 50)));
            }
        }
    }
}

/// A recorded graph serves other ids, weights and numbers of entries.
#[test]
fn replayed_with_other_ids() {
    let Some(device) = device::device() else { return };
    let stream = device.stream().unwrap();
    const MOST: usize = 40;
    let table = Random::new(21).values(9 * 8);
    let whole = Case::gather("gather", 8, table.clone(), random_ids(MOST, 9));
    let full = Case::bags(&[3; MOST], 9, 8, (Pooling::Sum, true), Some(2));
    let (one, two) = (Job::new(&stream, &whole, PLAIN, 0), Job::new(&stream, &full, PLAIN, 1));
    let count = stream.upload("count", &[0u32]).unwrap();
    let fault = stream.upload("fault", &[u64::MAX]).unwrap();
    let mut lookups = [one.lookup, two.lookup];
    for lookup in &mut lookups {
        lookup.items = Rows::new(MOST, count.clone()).unwrap();
    }
    let graph = stream.record(|stream| embedding::enqueue(stream, &lookups, &fault)).unwrap();
    for items in [MOST, 1, 0, 17] {
        let lengths: Vec<usize> = (0..items).map(|i| (i + items) % 4).collect();
        // Weights of 1 stand for none.
        let mut pooled = Case::bags(&lengths, 9, 8, (Pooling::Sum, items != 17), Some(2));
        let gathered = Case { ids: random_ids(items + 1, 9)[1..].to_vec(), ..whole.clone() };
        stream.upload_to(&[u32::try_from(items).unwrap()], &count).unwrap();
        stream.upload_to(&gathered.ids, &lookups[0].ids.part(0..items).unwrap()).unwrap();
        let bags = lookups[1].bags.clone().unwrap();
        let used = 0..pooled.ids.len();
        stream.upload_to(&pooled.ids, &lookups[1].ids.part(used.clone()).unwrap()).unwrap();
        let case_bags = pooled.bags.as_mut().unwrap();
        let offsets: Vec<u64> = case_bags.offsets.iter().map(|&offset| offset as u64).collect();
        stream.upload_to(&offsets, &bags.offsets.part(0..items + 1).unwrap()).unwrap();
        let weights = case_bags.weights.clone().unwrap_or(vec![1.0; used.len()]);
        stream.upload_to(&weights, &bags.weights.unwrap().part(used).unwrap()).unwrap();
        for lookup in &lookups {
            let bytes = lookup.output.as_f32().unwrap();
            stream.fill(&bytes, POISON).unwrap();
        }
        graph.launch().unwrap();
        for (lookup, case) in lookups.iter().zip([&gathered, &pooled]) {
            let found = lookup.output.download(&stream).unwrap();
            let (found, rest) = found.split_at(items * 8);
            let expected = on_cpu(case, &Tables::new(case).get(Precision::F32), Isa::best()).unwrap();
            assert_bits(&format!("{}, replayed", case.what), found, &expected, &[items, 8]);
            assert!(rest.iter().all(|x| x.to_bits() == 0xA5A5_A5A5), "{}", case.what);
        }
    }
    assert_eq!(stream.download(&fault).unwrap()[0], u64::MAX);
}

/// Every way the arguments can disagree; nothing is launched.
#[test]
fn refusals() {
    let Some(device) = device::device() else { return };
    let stream = device.stream().unwrap();
    let gathered = Case::gather("gather", 4, vec![1.0; 12], vec![0, 1]);
    let pooled = Case::bags(&[1, 2], 3, 4, (Pooling::Sum, true), None);
    let refused = |case: &Case, change: &dyn Fn(&mut Lookup)| {
        let (good, mut bad) = (Job::new(&stream, case, PLAIN, 0), Job::new(&stream, case, PLAIN, 0));
        change(&mut bad.lookup);
        let fault = stream.upload("fault", &[u64::MAX]).unwrap();
        let error = embedding::enqueue(&stream, &[good.lookup.clone(), bad.lookup], &fault).unwrap_err();
        let untouched = good.memory.download(&stream).unwrap();
        assert!(untouched.iter().all(|x| x.to_bits() == 0xA5A5_A5A5), "launched in spite of {error}");
        error.to_string()
    };
    fn bags(lookup: &mut Lookup) -> &mut embedding::Bags {
        lookup.bags.as_mut().unwrap()
    }
    for case in [&gathered, &pooled] {
        assert_eq!(
            refused(case, &|l| l.table_rows = 4),
            "embedding table has 12 elements, the shape [4, 4] needs 16"
        );
        assert_eq!(refused(case, &|l| l.width = 0), "embedding width 0 is beyond the limit of 2147483648");
        assert!(refused(case, &|l| l.table_rows = usize::MAX).starts_with("embedding table has 12 elements"));
        assert_eq!(
            refused(case, &|l| l.output = l.output.part(0..7).unwrap()),
            "embedding output has 7 elements, the shape [2, 4] needs 8"
        );
        assert_eq!(
            refused(case, &|l| l.unknown = UnknownId::Row(3)),
            "default row 3 is beyond the limit of 2"
        );
    }
    assert_eq!(
        refused(&gathered, &|l| l.ids = l.ids.part(0..1).unwrap()),
        "ids has 1 elements, the shape [2] needs 2"
    );
    assert_eq!(
        refused(&pooled, &|l| bags(l).offsets = bags(l).offsets.part(0..2).unwrap()),
        "bag offsets has 2 elements, the shape [3] needs 3"
    );
    assert_eq!(
        refused(&pooled, &|l| l.ids = l.ids.part(0..2).unwrap()),
        "bag weights, which only sums take, has 3 elements, the shape [2] needs 2"
    );
    for pooling in [Pooling::Mean, Pooling::Max] {
        assert_eq!(
            refused(&pooled, &|l| bags(l).pooling = pooling),
            "bag weights, which only sums take, has 3 elements, the shape [0] needs 0"
        );
    }
    let fault = stream.upload("fault", &[0u64; 2]).unwrap();
    assert!(matches!(embedding::enqueue(&stream, &[], &fault), Err(CudaError::Length { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bags_on_the_device(
        lengths in prop::collection::vec(0usize..40, 0..12),
        rows in 3usize..30,
        width in 1usize..70,
        shift in 0usize..9,
    ) {
        let Some(device) = device::device() else { return Ok(()) };
        let stream = device.stream().unwrap();
        for padding_id in [None, Some(2)] {
            for case in Case::all_bags(&lengths, rows, width, padding_id) {
                let jobs: Vec<Job<'_>> =
                    layouts(shift, 1).into_iter().map(|layout| Job::new(&stream, &case, layout, 0)).collect();
                assert_eq!(run(&stream, &jobs), u64::MAX);
                jobs.iter().for_each(|job| job.check(&stream));
            }
        }
    }
}
