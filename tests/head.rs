//! Linear layers and the fused head against their f64 twins, and bit for bit against themselves.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use mercer::cpu::OpError;
use mercer::cpu::activation::Activation;
use mercer::cpu::head::{Head, Segment};
use mercer::cpu::linear::Linear;
use mercer::cpu::simd::Isa;
use oracle::{F32_TOLERANCE, Random, assert_bits, assert_close, relu, row_product, wide, with_threads};
use proptest::prelude::*;

mod oracle;

/// A linear layer with random values against the f64 sum, on every instruction set.
fn check_linear(rows: usize, inputs: usize, outputs: usize) {
    let mut random = Random::new(17);
    let (data, weight) = (random.values(rows * inputs), random.values(outputs * inputs));
    let bias = random.values(outputs);
    let what = format!("{rows} rows, {inputs} inputs, {outputs} outputs");
    for bias in [None, Some(&bias[..])] {
        let layer = Linear::new(outputs, inputs, &weight, bias, Activation::Relu).unwrap();
        let run = |isa| {
            let mut output = vec![f32::NAN; rows * outputs];
            layer.run(isa, rows, &data, &mut output).unwrap();
            output
        };
        let expected: Vec<f64> = (0..rows)
            .flat_map(|row| {
                let sums = if inputs == 0 {
                    vec![0.0; outputs]
                } else {
                    row_product(&weight, inputs, 0, &data[row * inputs..(row + 1) * inputs])
                };
                sums.into_iter()
                    .enumerate()
                    .map(|(o, sum)| relu(sum + bias.map_or(0.0, |bias| f64::from(bias[o]))))
                    .collect::<Vec<f64>>()
            })
            .collect();
        let found = run(Isa::best());
        assert_close(&what, &found, &expected, &[rows, outputs], F32_TOLERANCE);
        for isa in Isa::available() {
            assert_bits(&format!("{what} {isa:?}"), &run(isa), &found, &[rows, outputs]);
        }
    }
}

/// Rows around the heights of the tiles and of a block.
#[test]
fn linear_rows() {
    for rows in (0..=9).chain([11, 12, 13, 14, 15, 27, 28, 29, 111, 112, 113]) {
        check_linear(rows, 10, 33);
    }
}

/// Inputs and outputs that do not fill a vector or a panel.
#[test]
fn linear_tails() {
    for len in (0..=9).chain([15, 16, 17, 31, 32, 33, 63, 64, 65]) {
        check_linear(3, len, 5);
        check_linear(3, 5, len);
    }
}

/// Inputs around the length of a run of the sum.
#[test]
fn linear_long_sums() {
    for inputs in [511, 512, 513, 1023, 1024, 1025] {
        check_linear(2, inputs, 3);
    }
}

/// As many inputs as the widest layer of VGG-16, all of one sign and of one value, so that roundings do not cancel.
#[test]
fn longest_sum_of_equal_terms() {
    let inputs = 25_088;
    let layer = Linear::new(1, inputs, &vec![0.1; inputs], None, Activation::Identity).unwrap();
    let mut output = [0.0];
    layer.run(Isa::best(), 1, &vec![0.7; inputs], &mut output).unwrap();
    let expected = f64::from(0.1f32) * f64::from(0.7f32) * 25_088.0;
    assert_close("equal terms", &output, &[expected], &[1], F32_TOLERANCE);
}

/// A head over segments, with the rows that have each.
struct Case {
    widths: Vec<usize>,
    batch: usize,
    /// Per segment, the rows that have it.
    rows: Vec<Vec<usize>>,
    /// `[rows, width]` per segment.
    data: Vec<Vec<f32>>,
}

impl Case {
    /// Every presence pattern comes up: row `r` has segment `s` if bit `s` of a hash of `r` is set.
    fn new(widths: &[usize], batch: usize, has: impl Fn(usize, usize) -> bool) -> Case {
        let mut random = Random::new(29);
        let rows: Vec<Vec<usize>> =
            (0..widths.len()).map(|s| (0..batch).filter(|&row| has(row, s)).collect()).collect();
        let data = rows.iter().zip(widths).map(|(rows, width)| random.values(rows.len() * width)).collect();
        Case { widths: widths.to_vec(), batch, rows, data }
    }

    fn total(&self) -> usize {
        self.widths.iter().sum()
    }

    fn segments(&self) -> Vec<Segment<'_>> {
        self.rows.iter().zip(&self.data).map(|(rows, data)| Segment { rows, data }).collect()
    }

    /// The batch of a single row.
    fn alone(&self, row: usize) -> Case {
        let mut case = Case::new(&self.widths, 1, |_, s| self.rows[s].contains(&row));
        for (s, width) in self.widths.iter().enumerate() {
            if let Some(at) = self.rows[s].iter().position(|&r| r == row) {
                case.data[s] = self.data[s][at * width..(at + 1) * width].to_vec();
            }
        }
        case
    }

    /// The concatenation, absent segments as zeros.
    fn concatenated(&self) -> Vec<f32> {
        let mut output = vec![0.0; self.batch * self.total()];
        let mut first = 0;
        for ((rows, data), &width) in self.rows.iter().zip(&self.data).zip(&self.widths) {
            for (at, row) in rows.iter().enumerate() {
                let to = row * self.total() + first;
                output[to..to + width].copy_from_slice(&data[at * width..(at + 1) * width]);
            }
            first += width;
        }
        output
    }

    fn run(&self, head: &Head, isa: Isa) -> Vec<f32> {
        let mut output = vec![f32::NAN; self.batch * head.outputs()];
        head.run(isa, self.batch, &self.segments(), &mut output).unwrap();
        output
    }

    /// A head of layers with the given outputs, its result against f64, and the invariances of a row.
    fn check(&self, outputs: &[usize]) {
        let mut random = Random::new(31);
        let what = format!("widths {:?}, batch {}, outputs {outputs:?}", self.widths, self.batch);
        let mut layers = Vec::new();
        let mut inputs = self.total();
        let mut expected = wide(&self.concatenated());
        for (at, &outputs) in outputs.iter().enumerate() {
            let (weight, bias) = (random.values(outputs * inputs), random.values(outputs));
            let activation = if at % 2 == 1 { Activation::Tanh } else { Activation::Identity };
            layers.push(Linear::new(outputs, inputs, &weight, Some(&bias), activation).unwrap());
            expected = (0..self.batch * outputs)
                .map(|at| {
                    let (row, o) = (at / outputs, at % outputs);
                    let x = &expected[row * inputs..(row + 1) * inputs];
                    let weights = &weight[o * inputs..(o + 1) * inputs];
                    let sum: f64 = x.iter().zip(weights).map(|(x, &w)| x * f64::from(w)).sum();
                    let sum = sum + f64::from(bias[o]);
                    if activation == Activation::Tanh { sum.tanh() } else { sum }
                })
                .collect();
            inputs = outputs;
        }
        let head = Head::new(&self.widths, layers).unwrap();
        let dimensions = [self.batch, head.outputs()];
        let found = self.run(&head, Isa::best());
        assert_close(&what, &found, &expected, &dimensions, F32_TOLERANCE);
        for isa in Isa::available() {
            assert_bits(&format!("{what} {isa:?}"), &self.run(&head, isa), &found, &dimensions);
        }
        for threads in [1, 2, 5] {
            let other = with_threads(threads, || self.run(&head, Isa::best()));
            assert_bits(&format!("{what} on {threads} threads"), &other, &found, &dimensions);
        }
        let alone: Vec<f32> =
            (0..self.batch).flat_map(|row| self.alone(row).run(&head, Isa::best())).collect();
        assert_bits(&format!("{what} alone"), &alone, &found, &dimensions);
        if head.is_linear() {
            self.check_parts(&head, &found);
        }
    }

    /// Parts and bias add up to the output, each rounded once more per addition.
    fn check_parts(&self, head: &Head, output: &[f32]) {
        let outputs = head.part_outputs();
        let mut sums: Vec<f64> = match head.bias() {
            Some(bias) => (0..self.batch).flat_map(|_| wide(bias)).collect(),
            None => vec![0.0; self.batch * outputs],
        };
        for (s, &segment) in self.segments().iter().enumerate() {
            let mut part = vec![f32::NAN; segment.rows.len() * outputs];
            head.parts(Isa::best(), s, segment, &mut part).unwrap();
            for (at, row) in segment.rows.iter().enumerate() {
                for o in 0..outputs {
                    sums[row * outputs + o] += f64::from(part[at * outputs + o]);
                }
            }
        }
        assert_close("parts", output, &sums, &[self.batch, outputs], F32_TOLERANCE);
    }
}

fn every_pattern(row: usize, segment: usize) -> bool {
    (row * 7 + row / 3) >> segment & 1 == 1
}

/// Rows with every subset of the segments, the empty one too, in one batch.
#[test]
fn presence_patterns() {
    for batch in [0, 1, 2, 5, 13, 14, 15, 37, 130] {
        Case::new(&[5, 16, 1, 33], batch, every_pattern).check(&[7]);
    }
}

/// Everything present, nothing present, and a segment that no row has.
#[test]
fn uniform_presence() {
    Case::new(&[5, 16], 20, |_, _| true).check(&[40]);
    Case::new(&[5, 16], 20, |_, _| false).check(&[40]);
    Case::new(&[5, 16, 3], 20, |_, s| s != 1).check(&[40]);
}

/// Segments longer than a run of the sum, and of no width at all.
#[test]
fn widths() {
    Case::new(&[1030, 3, 600], 5, every_pattern).check(&[3]);
    Case::new(&[0, 4, 0], 9, every_pattern).check(&[3]);
    Case::new(&[0], 3, every_pattern).check(&[3]);
    Case::new(&[], 3, every_pattern).check(&[3]);
}

/// Further layers over the fused one, and no layer at all: the concatenation.
#[test]
fn depths() {
    Case::new(&[6, 9], 17, every_pattern).check(&[33, 8]);
    Case::new(&[6, 9], 17, every_pattern).check(&[33, 8, 65, 1]);
    Case::new(&[6, 9], 17, every_pattern).check(&[]);
}

/// An absent segment is skipped, not multiplied by zero: its weights may hold anything.
#[test]
fn absent_weights_are_not_read() {
    let weight = [1.0, f32::NAN, f32::INFINITY, 2.0];
    let layer = Linear::new(1, 4, &weight, None, Activation::Identity).unwrap();
    let head = Head::new(&[1, 2, 1], vec![layer]).unwrap();
    let segments =
        [Segment { rows: &[0], data: &[3.0] }, Segment::default(), Segment { rows: &[0], data: &[5.0] }];
    let mut output = [0.0];
    head.run(Isa::best(), 1, &segments, &mut output).unwrap();
    assert_eq!(output, [13.0]);
}

/// Every way the arguments can disagree.
#[test]
fn refusals() {
    let layer = |outputs, inputs| {
        Linear::new(outputs, inputs, &vec![0.0; outputs * inputs], None, Activation::Identity).unwrap()
    };
    assert!(matches!(Linear::new(2, 3, &[0.0; 5], None, Activation::Relu), Err(OpError::Length { .. })));
    let bias = Linear::new(2, 3, &[0.0; 6], Some(&[0.0]), Activation::Relu);
    assert!(matches!(bias, Err(OpError::Length { .. })));
    let huge = Linear::new(usize::MAX, 3, &[], None, Activation::Relu);
    assert!(matches!(huge, Err(OpError::Overflow { .. })));
    let run = layer(2, 3).run(Isa::best(), 2, &[0.0; 5], &mut [0.0; 4]);
    assert!(matches!(run, Err(OpError::Length { .. })));
    let run = layer(2, 3).run(Isa::best(), 2, &[0.0; 6], &mut [0.0; 5]);
    assert!(matches!(run, Err(OpError::Length { .. })));

    let error = |result: Result<Head, OpError>| result.unwrap_err().to_string();
    assert_eq!(error(Head::new(&[1, 2], vec![layer(2, 4)])), "inputs of a head layer: 4 values, expected 3");
    let chain = Head::new(&[3], vec![layer(2, 3), layer(2, 3)]);
    assert_eq!(error(chain), "inputs of a head layer: 3 values, expected 2");
    assert!(matches!(Head::new(&[usize::MAX, 1], vec![]), Err(OpError::Overflow { .. })));

    let head = Head::new(&[1, 2], vec![layer(2, 3)]).unwrap();
    let one = Segment { rows: &[0, 2], data: &[1.0, 2.0] };
    let run = |batch, second: Segment<'_>| {
        head.run(Isa::best(), batch, &[one, second], &mut vec![0.0; batch * 2]).map_err(|e| e.to_string())
    };
    assert_eq!(run(3, Segment::default()), Ok(()));
    let message = |segment: usize, position: usize, row: usize, batch: usize| {
        Err(format!(
            "segment {segment}, position {position}: row {row} in a batch of {batch}, rows must ascend"
        ))
    };
    assert_eq!(run(2, Segment::default()), message(0, 1, 2, 2));
    assert_eq!(run(3, Segment { rows: &[1, 1], data: &[0.0; 4] }), message(1, 1, 1, 3));
    let short = run(3, Segment { rows: &[1], data: &[0.0] });
    assert_eq!(short, Err("segment: 1 values, expected 2".into()));
    let few = head.run(Isa::best(), 3, &[one], &mut [0.0; 6]);
    assert_eq!(few, Err(OpError::Segments { found: 1, expected: 2 }));
    let output = head.run(Isa::best(), 3, &[one, Segment::default()], &mut [0.0; 5]);
    assert!(matches!(output, Err(OpError::Length { .. })));
    let parts = head.parts(Isa::best(), 2, one, &mut [0.0; 4]);
    assert_eq!(parts, Err(OpError::Segments { found: 3, expected: 2 }));
    assert!(matches!(head.parts(Isa::best(), 0, one, &mut [0.0; 3]), Err(OpError::Length { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_head(
        widths in prop::collection::vec(0usize..40, 0..5), batch in 0usize..40, seed: u64,
        outputs in prop::collection::vec(1usize..50, 0..3),
    ) {
        Case::new(&widths, batch, |row, s| Random::new(seed ^ (row * 8 + s) as u64).below(3) > 0).check(&outputs);
    }
}
