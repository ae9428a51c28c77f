//! The CUDA backend.

use mercer::cpu::activation::Activation;
use mercer::cpu::normalize::normalize;
use mercer::cuda::head::{Head, LayerWeights, Segment};
use mercer::cuda::linear::Linear;
use mercer::cuda::{CudaError, Device, Precision, Rows, Slice, Stream, Tensor};

use super::device::{device_with, poisoned, round, tolerance};
use super::oracle::{F32_TOLERANCE, Random, assert_bits, assert_close, wide};
use super::{Case, Layer, Shape, cases, linear};

/// Stands for a row that a segment does not have.
const ABSENT: u32 = u32::MAX;

fn values(layer: &Layer) -> LayerWeights<'_> {
    let &Layer { outputs, inputs, ref weight, ref bias, activation } = layer;
    LayerWeights { outputs, inputs, weight, bias: bias.as_deref(), activation }
}

fn to_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap()
}

/// A case's head and towers on a device.
struct OnDevice<'a> {
    case: &'a Case,
    stream: Stream,
    precision: Precision,
    stored: Precision,
    head: Head,
    data: Vec<Tensor>,
}

impl<'a> OnDevice<'a> {
    fn new(device: &Device, case: &'a Case, precision: Precision, normalize: bool) -> OnDevice<'a> {
        let stream = device.stream().unwrap();
        let layers: Vec<LayerWeights<'_>> = case.layers.iter().map(values).collect();
        let head = Head::new(&stream, precision, &case.widths, &layers, normalize).unwrap();
        let data = case.data.iter().map(|data| Tensor::upload(&stream, "data", precision, data).unwrap());
        let data = data.collect();
        OnDevice { case, stream, precision, stored: Precision::F32, head, data }
    }

    /// Where batch row `row` of the case lies in a segment; beyond its rows, just so or by far, if it is not there.
    fn place(&self, segment: usize, row: usize) -> u32 {
        let rows = &self.case.rows[segment];
        let beyond = if row.is_multiple_of(2) { ABSENT } else { to_u32(rows.len()) };
        rows.iter().position(|&r| r == row).map_or(beyond, to_u32)
    }

    /// The segments for a batch of these rows of the case; in place of `None` stands a row whose segments are `others`.
    fn segments(&self, rows: &[Option<usize>], mut others: impl FnMut(usize) -> u32) -> Vec<Segment> {
        let segments = self.data.iter().enumerate().map(|(s, data)| {
            let index = rows.iter().map(|row| row.map_or_else(|| others(s), |row| self.place(s, row)));
            let index: Vec<u32> = index.collect();
            Segment { index: self.stream.upload("index", &index).unwrap(), data: data.clone() }
        });
        segments.collect()
    }

    fn workspace(&self, most: usize) -> Slice<u8> {
        let workspace = Slice::new(self.stream.device(), "workspace", self.head.workspace(most)).unwrap();
        self.stream.fill(&workspace, 0xFF).unwrap();
        workspace
    }

    /// Memory that must be written.
    fn output(&self, batch: usize) -> Tensor {
        poisoned(&self.stream, self.stored, batch * self.head.outputs())
    }

    /// The head with its output stored so.
    fn storing(self, stored: Precision) -> OnDevice<'a> {
        OnDevice { head: self.head.storing(stored), stored, ..self }
    }

    /// The output and the fault record for a batch of `segments`.
    fn run(&self, batch: usize, segments: &[Segment]) -> (Vec<f32>, u64) {
        let rows = Rows::exactly(&self.stream, batch).unwrap();
        let fault = self.stream.upload("fault", &[u64::MAX]).unwrap();
        let (workspace, output) = (self.workspace(batch), self.output(batch));
        self.head.enqueue_tensor(&self.stream, &rows, segments, &workspace, &output, 5, &fault).unwrap();
        (output.download(&self.stream).unwrap(), self.stream.download(&fault).unwrap()[0])
    }

    /// The case's own batch.
    fn run_case(&self) -> (Vec<f32>, u64) {
        let rows: Vec<Option<usize>> = (0..self.case.batch).map(Some).collect();
        self.run(self.case.batch, &self.segments(&rows, |_| ABSENT))
    }

    /// The f32 output `found`, stored in 16 bits, is rounded to nearest even, and reported alike.
    fn check_stored(mut self, found: &[f32], fault: u64) {
        for stored in [Precision::F16, Precision::Bf16] {
            self = self.storing(stored);
            let expected: Vec<f32> = found.iter().map(|&x| round(stored, x)).collect();
            let (found, record) = self.run_case();
            let what = format!("stored in {stored:?}, {}", self.what());
            assert_bits(&what, &found, &expected, &[self.case.batch, self.head.outputs()]);
            assert_eq!(record, fault, "{what}");
        }
    }

    fn what(&self) -> String {
        format!("{:?}, {}", self.precision, self.case.what)
    }
}

/// Every case in every precision, with the parts of linear heads: f32 to the bit, sums of 16-bit values within the bound of
/// a sum, layers behind a rounded one within the contract. A small card takes the wide tile where rows are many.
#[test]
fn device_agrees_with_f64() {
    let Some(small) = device_with(1) else { return };
    let Some(large) = device_with(132) else { return };
    for case in cases().into_iter().chain(watched()) {
        let devices = if case.batch > 100 { vec![&large, &small] } else { vec![&large] };
        for (device, precision) in devices.into_iter().flat_map(|d| Precision::ALL.map(|p| (d, p))) {
            let on = OnDevice::new(device, &case, precision, false);
            let shape = [case.batch, case.outputs()];
            assert_eq!((on.head.outputs(), on.head.is_linear()), (case.outputs(), case.is_linear()));
            let (found, fault) = on.run_case();
            assert_eq!(fault, u64::MAX, "{}", on.what());
            if precision == Precision::F32 {
                assert_bits(&on.what(), &found, &case.in_order(), &shape);
            }
            // Values with four bits after the point are what they are in every precision.
            let tolerance = if case.sums_are_exact() { 0.0 } else { tolerance(precision) };
            assert_close(&on.what(), &found, &case.expected(), &shape, tolerance);
            if case.layers.len() <= 1 {
                let stored = case.map(|x| round(precision, x), |bias| bias);
                assert_within(&on.what(), &found, &stored.expected(), &stored.bounds(), shape);
            }
            if case.is_linear() {
                check_parts(&on, &found);
            }
            on.check_stored(&found, fault);
        }
    }
}

/// A layer whose inputs are several chunks and which the large card cuts into narrow tiles, the small one into wide ones. A
/// real card is as large as it is: it takes wide tiles for more rows.
#[test]
fn tiles_have_one_order() {
    let runs = if cfg!(feature = "emulate") { [(64, 1), (64, 132)] } else { [(64, 132), (4096, 132)] };
    for (batch, multiprocessors) in runs {
        let Some(device) = device_with(multiprocessors) else { return };
        let case = Case::new(&[768], batch, &[linear(512)], false, |_, _| true);
        let (found, _) = OnDevice::new(&device, &case, Precision::F32, false).run_case();
        let what = format!("{batch} rows, {multiprocessors} multiprocessors");
        assert_bits(&what, &found, &case.in_order(), &[batch, 512]);
    }
}

/// Fails with the first output that is further from `expected` than its bound.
#[track_caller]
fn assert_within(what: &str, found: &[f32], expected: &[f64], bounds: &[f64], [_, width]: [usize; 2]) {
    assert_eq!((found.len(), found.len()), (expected.len(), bounds.len()), "{what}: lengths");
    for (at, ((&found, expected), bound)) in found.iter().zip(expected).zip(bounds).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(
            error <= *bound,
            "{what}: {found} instead of {expected} in row {} at {}, error {error:e} beyond {bound:e}",
            at / width,
            at % width
        );
    }
}

/// Parts and bias add up to the output, which is summed in another order. Rows without the segment have parts of zero.
fn check_parts(on: &OnDevice<'_>, output: &[f32]) {
    let (case, outputs) = (on.case, on.head.part_outputs());
    let shape = [case.batch, outputs];
    let bias = case.layers.first().and_then(|layer| layer.bias.clone());
    let bias = wide(&bias.unwrap_or(vec![0.0; outputs]));
    let mut sums: Vec<f64> = (0..case.batch).flat_map(|_| bias.clone()).collect();
    let rows: Vec<Option<usize>> = (0..case.batch).map(Some).collect();
    let (count, workspace) = (Rows::exactly(&on.stream, case.batch).unwrap(), on.workspace(case.batch));
    for (s, segment) in on.segments(&rows, |_| ABSENT).iter().enumerate() {
        let output = poisoned(&on.stream, Precision::F32, case.batch * outputs).as_f32().unwrap();
        on.head.enqueue_parts(&on.stream, &count, s, segment, &workspace, &output).unwrap();
        let part = on.stream.download(&output).unwrap();
        if let (Precision::F32, Some(layer)) = (on.precision, case.layers.first()) {
            let expected = case.sums(layer, s..s + 1);
            assert_bits(&format!("part {s}, {}", on.what()), &part, &expected, &shape);
        }
        for (row, part) in part.chunks_exact(outputs).enumerate() {
            let zero = part.iter().all(|x| x.to_bits() == 0);
            assert!(zero || case.rows[s].contains(&row), "{}: part {s} of row {row}", on.what());
        }
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += f64::from(part));
    }
    let tolerance = if case.sums_are_exact() { 0.0 } else { F32_TOLERANCE };
    assert_close(&format!("parts, {}", on.what()), output, &sums, &shape, tolerance);
}

/// Heads whose rows are watched: several chunks in a segment, aligned and not, one layer and more, few outputs and more
/// than a tile has.
fn watched() -> Vec<Case> {
    let hidden = [(70, true, Activation::Relu), linear(9)];
    let case =
        |widths: &[usize], layers: &[Shape]| Case::new(widths, 11, layers, false, super::every_pattern);
    vec![
        case(&[300, 520, 64], &[linear(70)]),
        case(&[33, 260, 1], &[linear(150)]),
        case(&[20, 260], &[linear(9)]),
        case(&[40, 31], &hidden),
    ]
}

/// More rows than any card has blocks at a time: the chunks of a tile are summed by one block.
const MANY: usize = 4300;

/// A row's bits are the same alone and anywhere in batches of any size, whatever its neighbours have, and on a card that
/// the layers are cut otherwise for.
#[test]
fn rows_do_not_depend_on_the_batch() {
    let Some(small) = device_with(2) else { return };
    let Some(device) = device_with(132) else { return };
    let mut random = Random::new(3);
    for (at, case) in watched().into_iter().enumerate() {
        for precision in Precision::ALL {
            let on = OnDevice::new(&device, &case, precision, true);
            let width = on.head.outputs();
            let (found, _) = on.run_case();
            let elsewhere = OnDevice::new(&small, &case, precision, true);
            // The small card takes wide tiles, in slices and not.
            let batches = [(&on, &[1, 7, 16, 17, 65, 300, MANY][..]), (&elsewhere, &[case.batch, 128, 300])];
            let batches =
                batches.iter().flat_map(|(on, batches)| batches.iter().map(move |batch| (on, *batch)));
            for (on, batch) in batches {
                if batch == MANY && !(1..=2).contains(&at) {
                    continue; // these take long, and one case for each kind of tile says it
                }
                let mut rows: Vec<Option<usize>> = vec![None; batch];
                for _ in 0..batch.div_ceil(2) {
                    rows[random.below(batch)] = Some(random.below(case.batch));
                }
                let others = |s: usize| match case.rows[s].len() {
                    len if random.below(3) > 0 => to_u32(random.below(len)),
                    _ => ABSENT,
                };
                let segments = on.segments(&rows, others);
                let (other, _) = on.run(batch, &segments);
                for (at, row) in rows.iter().enumerate() {
                    let Some(row) = *row else { continue };
                    let what = format!("{}: row {row} at {at} of {batch}", on.what());
                    let (at, row) = (at * width..(at + 1) * width, row * width..(row + 1) * width);
                    assert_bits(&what, &other[at], &found[row], &[width]);
                }
            }
        }
    }
}

/// The normalised output is the normalisation, as the CPU defines it, of the output without; rows without direction are
/// named and stay.
#[test]
fn normalisation_is_the_defined_one() {
    let Some(device) = device_with(132) else { return };
    let mut all = watched();
    // No bias: a row that has nothing is zero. Two tiles of columns; the concatenation.
    for layers in [&[(200, false, Activation::Identity)][..], &[(5, false, Activation::Identity)], &[]] {
        all.push(Case::new(&[5, 9], 70, layers, false, |row, _| row != 3 && row != 66));
    }
    for case in all {
        for precision in Precision::ALL {
            let (plain, _) = OnDevice::new(&device, &case, precision, false).run_case();
            let on = OnDevice::new(&device, &case, precision, true);
            let (found, fault) = on.run_case();
            let (mut expected, width) = (plain, on.head.outputs());
            let rows = expected.chunks_exact_mut(width).enumerate();
            let bad: Vec<usize> = rows.filter_map(|(at, row)| normalize(row).err().map(|_| at)).collect();
            assert_bits(&on.what(), &found, &expected, &[case.batch, width]);
            let record = bad.first().map_or(u64::MAX, |&row| 5 << 48 | u64::from(to_u32(row)));
            assert_eq!(fault, record, "{}", on.what());
            on.check_stored(&found, fault);
        }
    }
}

/// What cannot be normalised is stored as it is, in every precision, and the least such row reported.
#[test]
fn rows_without_direction() {
    let Some(device) = device_with(132) else { return };
    for layers in [&[(2, false, Activation::Identity)][..], &[]] {
        let mut case = Case::new(&[1, 1], 4, layers, true, |_, _| true);
        case.layers.iter_mut().for_each(|layer| layer.weight = vec![1.0, 0.0, 0.0, 1.0]);
        case.data = vec![vec![0.75, 0.0, -3.5, 0.0], vec![1.0, f32::INFINITY, f32::INFINITY, 0.0]];
        if layers.is_empty() {
            case.data[0][1] = f32::NAN;
        }
        for stored in Precision::ALL {
            let on = OnDevice::new(&device, &case, Precision::F32, true).storing(stored);
            let (found, fault) = on.run_case();
            let nan = |x: f32| x.is_nan();
            assert_eq!(found[..2], [round(stored, 0.6), round(stored, 0.8)], "{}", on.what());
            assert!(nan(found[2]) && found[3] == f32::INFINITY, "{}: {found:?}", on.what());
            let left = if layers.is_empty() { found[4] == -3.5 } else { nan(found[4]) };
            assert!(left && found[5] == f32::INFINITY && found[6..] == [0.0; 2], "{}: {found:?}", on.what());
            assert_eq!(fault, 5 << 48 | 1, "{}", on.what());
        }
    }
}

/// Weights may hold anything where a row lacks the segment, beside rows that have it.
#[test]
fn absent_weights_are_not_read() {
    let Some(device) = device_with(132) else { return };
    for precision in Precision::ALL {
        let layers = [(1, false, Activation::Identity)];
        let mut case = Case::new(&[1, 2, 1], 2, &layers, true, |row, s| row == 1 || s != 1);
        case.layers[0].weight = vec![1.0, f32::NAN, f32::INFINITY, 2.0];
        case.data = vec![vec![3.0; 2], vec![1.0; 2], vec![5.0; 2]];
        let on = OnDevice::new(&device, &case, precision, false);
        for batch in [2, MANY] {
            let rows: Vec<Option<usize>> = (0..batch).map(|row| Some(row % 2)).collect();
            let (found, _) = on.run(batch, &on.segments(&rows, |_| ABSENT));
            let right = |pair: &[f32]| pair[0] == 13.0 && pair[1].is_nan();
            assert!(found.chunks_exact(2).all(right), "{precision:?}, batch {batch}");
        }
    }
}

/// One recorded graph serves other values and any count, a false one too; what lies behind the count is neither read nor
/// written.
#[test]
fn recorded_head_serves_any_count() {
    let Some(device) = device_with(132) else { return };
    let concatenation = Case::new(&[5, 9], 11, &[], false, super::every_pattern);
    for case in watched().into_iter().chain([concatenation]) {
        let [f32, f16, bf16] = [Precision::F32, Precision::F16, Precision::Bf16];
        for (precision, stored, most) in [(f32, f32, 20), (f16, bf16, 20), (bf16, f16, 8)] {
            let on = OnDevice::new(&device, &case, precision, true).storing(stored);
            let (stream, width) = (&on.stream, on.head.outputs());
            let (expected, _) = on.run_case();
            let count = stream.upload("count", &[0]).unwrap();
            let rows = Rows::new(most, count.clone()).unwrap();
            let segments = on.segments(&vec![None; most], |_| 0);
            let fault = stream.upload("fault", &[u64::MAX]).unwrap();
            // Room behind the rows, which stays as it is.
            let bytes = Slice::<u8>::new(&device, "output", (most + 100) * width * stored.bytes()).unwrap();
            let all = Tensor::over(bytes.clone(), stored).unwrap();
            let (workspace, output) = (on.workspace(most), all.part(0..most * width).unwrap());
            let graph = stream
                .record(|stream| {
                    on.head.enqueue_tensor(stream, &rows, &segments, &workspace, &output, 5, &fault)
                })
                .unwrap();
            let mut random = Random::new(11);
            for count_of in [3, 0, most, 1, most + 1, most + 80, u32::MAX as usize] {
                let live = count_of.min(most);
                stream.upload_to(&[to_u32(count_of)], &count).unwrap();
                stream.fill(&bytes, 0xFF).unwrap();
                let order: Vec<usize> = (0..live).map(|_| random.below(case.batch)).collect();
                for (s, segment) in segments.iter().enumerate() {
                    // Behind the count, rows that would be read.
                    let mut index = vec![0; most];
                    index.iter_mut().zip(&order).for_each(|(index, &row)| *index = on.place(s, row));
                    stream.upload_to(&index, &segment.index).unwrap();
                }
                graph.launch().unwrap();
                let found = all.download(stream).unwrap();
                for (at, &row) in order.iter().enumerate() {
                    let what = format!("{}: row {row} at {at} of {count_of}", on.what());
                    let expected = &expected[row * width..(row + 1) * width];
                    assert_bits(&what, &found[at * width..(at + 1) * width], expected, &[width]);
                }
                let untouched = found[live * width..].iter().all(|x| x.is_nan());
                assert!(untouched, "{}: written behind {live} rows", on.what());
            }
        }
    }
}

/// A linear layer over dense rows, in and out in the model's precision.
#[test]
fn dense_layers() {
    let Some(device) = device_with(132) else { return };
    let stream = device.stream().unwrap();
    for (rows, inputs, outputs) in
        [(1, 300, 70), (5, 0, 3), (9, 64, 64), (70, 33, 130), (0, 4, 4), (17, 1, 1)]
    {
        for precision in Precision::ALL {
            let case = Case::new(&[inputs], rows, &[(outputs, true, Activation::Relu)], false, |_, _| true);
            let layer = Linear::new(&stream, precision, &values(&case.layers[0])).unwrap();
            assert_eq!((layer.inputs(), layer.outputs()), (inputs, outputs));
            let input = Tensor::upload(&stream, "input", precision, &case.data[0]).unwrap();
            let output = Tensor::new(&device, "output", precision, rows * outputs).unwrap();
            let workspace = Slice::new(&device, "workspace", layer.workspace(rows)).unwrap();
            let count = Rows::exactly(&stream, rows).unwrap();
            layer.enqueue(&stream, &count, &input, &workspace, &output).unwrap();
            let (found, expected) = (output.download(&stream).unwrap(), case.expected());
            let what = format!("{precision:?}, {}", case.what);
            assert_close(&what, &found, &expected, &[rows, outputs], tolerance(precision));
        }
    }
}

/// Every way the arguments can disagree.
#[test]
fn device_refusals() {
    let Some(device) = device_with(132) else { return };
    let stream = device.stream().unwrap();
    let layer = |outputs, inputs, weight| LayerWeights {
        outputs,
        inputs,
        weight,
        bias: None,
        activation: Activation::Identity,
    };
    let head = |widths: &[usize], layers: &[LayerWeights<'_>], normalize| {
        Head::new(&stream, Precision::F16, widths, layers, normalize)
    };
    let weight = &[0.0; 6][..];
    assert!(matches!(head(&[1, 2], &[layer(2, 4, weight)], false), Err(CudaError::Length { .. })));
    assert!(matches!(head(&[1, 1], &[layer(3, 2, weight); 2], false), Err(CudaError::Length { .. })));
    let short = LayerWeights { bias: Some(&[0.0]), ..layer(2, 3, weight) };
    assert!(matches!(head(&[1, 2], &[short], false), Err(CudaError::Length { .. })));
    assert!(matches!(head(&[usize::MAX, 1], &[], false), Err(CudaError::Limit { .. })));
    assert!(matches!(head(&[1; 33], &[], false), Err(CudaError::Limit { .. })));
    assert!(matches!(head(&[0], &[], true), Err(CudaError::Limit { .. })));

    let head = head(&[1, 2], &[layer(2, 3, weight)], true).unwrap();
    let rows = Rows::exactly(&stream, 3).unwrap();
    let fault = stream.upload("fault", &[u64::MAX]).unwrap();
    let segment = |index: usize, precision, len: usize| Segment {
        index: stream.upload("index", &vec![0u32; index]).unwrap(),
        data: Tensor::upload(&stream, "data", precision, &vec![0.0; len]).unwrap(),
    };
    let (one, two) = (segment(3, Precision::F16, 1), segment(3, Precision::F16, 2));
    let run = |segments: &[Segment], workspace: usize, output: usize| {
        let workspace = Slice::new(&device, "workspace", workspace)?;
        let output = Slice::new(&device, "output", output)?;
        head.enqueue(&stream, &rows, segments, &workspace, &output, 0, &fault)
    };
    let enough = head.workspace(3);
    assert_eq!(run(&[one.clone(), two.clone()], enough, 6), Ok(()));
    let length = |result: Result<(), CudaError>| {
        assert!(matches!(result, Err(CudaError::Length { .. })), "{result:?}")
    };
    let limit =
        |result: Result<(), CudaError>| assert!(matches!(result, Err(CudaError::Limit { .. })), "{result:?}");
    length(run(std::slice::from_ref(&one), enough, 6));
    length(run(&[one.clone(), one.clone()], enough, 6));
    length(run(&[one.clone(), segment(2, Precision::F16, 2)], enough, 6));
    let precision = |result: Result<(), CudaError>| {
        assert!(matches!(result, Err(CudaError::Precision { .. })), "{result:?}")
    };
    precision(run(&[one.clone(), segment(3, Precision::Bf16, 2)], enough, 6));
    length(run(&[one.clone(), two.clone()], enough, 5));
    let half = poisoned(&stream, Precision::F16, 6);
    let workspace = Slice::new(&device, "workspace", enough).unwrap();
    precision(head.enqueue_tensor(&stream, &rows, &[one.clone(), two.clone()], &workspace, &half, 0, &fault));
    limit(run(&[one.clone(), two.clone()], 0, 6));
    let parts = |at, values: &Segment, output: usize| {
        let output = Slice::new(&device, "output", output)?;
        let workspace = Slice::new(&device, "workspace", enough)?;
        head.enqueue_parts(&stream, &rows, at, values, &workspace, &output)
    };
    assert_eq!(parts(1, &two, 6), Ok(()));
    limit(parts(2, &two, 6));
    length(parts(1, &one, 6));
    length(parts(1, &two, 5));
    precision(parts(1, &segment(3, Precision::F32, 2), 6));

    let layer = Linear::new(&stream, Precision::F16, &layer(2, 3, weight)).unwrap();
    let dense = |input: (Precision, usize), output: (Precision, usize)| {
        let workspace = Slice::new(&device, "workspace", layer.workspace(3))?;
        let input = Tensor::new(&device, "input", input.0, input.1)?;
        let output = Tensor::new(&device, "output", output.0, output.1)?;
        layer.enqueue(&stream, &rows, &input, &workspace, &output)
    };
    let (f32, f16) = (Precision::F32, Precision::F16);
    assert_eq!(dense((f16, 9), (f16, 6)), Ok(()));
    length(dense((f16, 8), (f16, 6)));
    length(dense((f16, 9), (f16, 5)));
    precision(dense((f32, 9), (f16, 6)));
    precision(dense((f16, 9), (f32, 6)));
}
