//! The defined normalisation: one case list on the f64 oracle, the CPU and the CUDA device.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use mercer::cpu::normalize::{NormalizeError, normalize};
use oracle::Random;

#[cfg(feature = "cuda")]
mod device;
mod oracle;

/// Rows of one length, and what is wrong with the first bad one.
struct Case {
    what: String,
    dim: usize,
    rows: Vec<f32>,
}

fn case(what: impl Into<String>, dim: usize, rows: Vec<f32>) -> Case {
    assert!(rows.len().is_multiple_of(dim));
    Case { what: what.into(), dim, rows }
}

/// Rows that have a direction.
fn cases() -> Vec<Case> {
    let mut random = Random::new(1);
    let mut cases = Vec::new();
    // Lanes without elements, one element, one more round; of 4 bytes and of 16.
    for dim in (1..=9).chain([31, 32, 33, 63, 64, 65, 124, 128, 132, 255, 256, 257, 260, 4095, 4096]) {
        cases.push(case(format!("length {dim}"), dim, random.values(3 * dim)));
    }
    // Warps of a block, blocks of a grid: the last rows must be there, and no others touched.
    for rows in [0, 1, 7, 8, 9, 63, 64, 65, 1000] {
        cases.push(case(format!("{rows} rows"), 5, random.values(rows * 5)));
    }
    // The scaling: squares that overflow, vanish or are subnormal without it.
    for magnitude in [f32::MAX, 1e38, 1.0, 1e-20, 1e-38, 1e-44, f32::from_bits(1)] {
        let rows = (0..70).map(|i| if i % 7 == 0 { magnitude } else { magnitude * random.value() });
        cases.push(case(format!("magnitude {magnitude:e}"), 35, rows.collect()));
    }
    // Every exponent of a row's largest element, and elements anywhere below it: each is scaled with one rounding.
    let mut rows = Vec::new();
    for exponent in -149..128 {
        let largest = (1.0 + random.value().abs() / 2.0) * (exponent as f32).exp2();
        let place = random.below(44);
        rows.extend((0..44).map(|i| match i {
            i if i == place => largest,
            _ => largest * random.value() * (-(random.below(160) as f32)).exp2(),
        }));
    }
    cases.push(case("every exponent", 44, rows));
    // Rounding when a power of two is divided out: just below and at one.
    cases.push(case("below 1", 2, vec![f32::from_bits(0x3F7F_FFFF), 0.5, -1.0, 1.0]));
    // One value far above the others, negative zeros, zeros.
    let mut spiked = vec![1e-30; 64];
    spiked[40] = -3e30;
    spiked[41] = -0.0;
    cases.push(case("spike", 64, spiked));
    cases
}

/// What the CPU makes of the rows.
fn on_cpu(case: &Case) -> Vec<f32> {
    let mut rows = case.rows.clone();
    rows.chunks_exact_mut(case.dim).for_each(|row| normalize(row).unwrap());
    rows
}

/// Two roundings to scale and divide, and half the rounding of the square root; the sum of up to 4096 squares in 32
/// lanes adds less than 128 + 5 more, halved by the root.
const TOLERANCE: f64 = 70.0 * f32::EPSILON as f64;

#[test]
fn cpu_agrees_with_f64() {
    for case in cases() {
        let found = on_cpu(&case);
        for (at, (found, row)) in found.chunks(case.dim).zip(case.rows.chunks(case.dim)).enumerate() {
            let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            for (i, (&found, &x)) in found.iter().zip(row).enumerate() {
                let (found, expected) = (f64::from(found), f64::from(x) / norm);
                let error = (found - expected).abs();
                assert!(error <= TOLERANCE, "{}: {found} instead of {expected} at [{at}, {i}]", case.what);
            }
        }
    }
}

/// Values without a direction, at the first, the last and a middle element.
#[test]
fn cpu_refuses_rows_without_direction() {
    assert_eq!(normalize(&mut [0.0, -0.0]), Err(NormalizeError::Zero { row: 0 }));
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for position in [0, 40, 69] {
            let mut row = vec![1.0; 70];
            row[position] = value;
            let error = normalize(&mut row).unwrap_err();
            assert!(matches!(error, NormalizeError::NotFinite { row: 0, position: p, .. } if p == position));
        }
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use mercer::cuda::{Device, Rows, normalize};

    use super::oracle::assert_bits;
    use super::*;

    fn run(device: &Device, dim: usize, rows: &[f32], stage: u16) -> (Vec<f32>, u64) {
        let count = rows.len() / dim;
        let (mut found, fault) = run_of(device, dim, rows, 0, (count, count), stage);
        found.truncate(rows.len());
        (found, fault)
    }

    /// Normalises `x[shift..]`, room for `most` rows of which the device is told that there are `count`; all of `x`.
    fn run_of(
        device: &Device,
        dim: usize,
        x: &[f32],
        shift: usize,
        (count, most): (usize, usize),
        stage: u16,
    ) -> (Vec<f32>, u64) {
        let stream = device.stream().unwrap();
        let (x, fault) = (stream.upload("rows", x).unwrap(), stream.upload("fault", &[u64::MAX]).unwrap());
        let count = stream.upload("count", &[u32::try_from(count).unwrap()]).unwrap();
        let rows = x.part(shift..shift + most * dim).unwrap();
        normalize::enqueue(&stream, &Rows::new(most, count).unwrap(), dim, &rows, stage, &fault).unwrap();
        (stream.download(&x).unwrap(), stream.download(&fault).unwrap()[0])
    }

    fn fault_of(stage: u16, row: u64) -> u64 {
        u64::from(stage) << 48 | row
    }

    #[test]
    fn device_equals_cpu() {
        let Some(device) = device::device() else { return };
        for case in cases() {
            let (found, fault) = run(&device, case.dim, &case.rows, 3);
            let shape = [case.rows.len() / case.dim, case.dim];
            assert_bits(&case.what, &found, &on_cpu(&case), &shape);
            assert_eq!(fault, u64::MAX, "{}", case.what);
        }
    }

    /// More rows than a small card has warps: every row in turn, and the least bad one is named though others come first.
    #[test]
    fn rows_of_later_turns() {
        let Some(device) = device::device_with(1) else { return };
        let turn = 64 * device.info().multiprocessors as usize;
        let rows = 3 * turn + 8;
        let mut all = case("later turns", 3, Random::new(7).values(rows * 3));
        let (found, fault) = run(&device, 3, &all.rows, 2);
        assert_bits(&all.what, &found, &on_cpu(&all), &[rows, 3]);
        assert_eq!(fault, u64::MAX);
        for row in [rows - 1, 2 * turn + 2, turn] {
            all.rows[3 * row..][..3].fill(0.0);
            assert_eq!(run(&device, 3, &all.rows, 2).1, fault_of(2, row as u64));
        }
    }

    /// Rows that start anywhere, and rows behind the count, which stay as they are; a count beyond the room is the room.
    #[test]
    fn rows_in_larger_memory() {
        let Some(device) = device::device() else { return };
        for dim in [5, 8, 256] {
            for shift in [0, 1, 2, 3, 4] {
                for (count, there) in [(0, 0), (1, 1), (7, 7), (20, 20), (21, 20), (u32::MAX as usize, 20)] {
                    let x = Random::new(9).values(shift + 20 * dim + 9 * dim);
                    let (found, fault) = run_of(&device, dim, &x, shift, (count, 20), 0);
                    let mut expected = x.clone();
                    expected[shift..][..there * dim]
                        .chunks_exact_mut(dim)
                        .for_each(|row| normalize(row).unwrap());
                    let what = format!("{count} rows of {dim}, shifted by {shift}");
                    assert_bits(&what, &found, &expected, &[x.len()]);
                    assert_eq!(fault, u64::MAX, "{what}");
                }
            }
        }
    }

    /// The least bad row is named whatever runs first, and bad rows stay as they are.
    #[test]
    fn device_reports_rows_without_direction() {
        let Some(device) = device::device() else { return };
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0] {
            for dim in [1, 33, 70, 132] {
                for place in [0, dim / 2, dim - 1] {
                    let mut rows = Random::new(5).values(40 * dim);
                    for row in [17, 38] {
                        let row = &mut rows[row * dim..(row + 1) * dim];
                        row.fill(if value == 0.0 { 0.0 } else { 1.0 });
                        row[place] = value;
                    }
                    let (found, fault) = run(&device, dim, &rows, 7);
                    assert_eq!(fault, fault_of(7, 17), "{value} at {place} in rows of {dim}");
                    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
                    let row = 17 * dim..18 * dim;
                    assert_eq!(bits(&found[row.clone()]), bits(&rows[row]), "{value} in rows of {dim}");
                }
            }
        }
    }
}
