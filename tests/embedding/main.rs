//! Embedding lookups and bags: one case list on the f64 oracle, the CPU and the CUDA device.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use cases::{Case, CaseBags};
use half::{bf16, f16};
use mercer::cpu::OpError;
use mercer::cpu::embedding::{Bags, Table, Values, bags, gather};
use mercer::cpu::simd::Isa;
use mercer::model::Precision;
use oracle::assert_bits;

mod cases;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
#[path = "../device/mod.rs"]
mod device;
#[path = "../oracle/mod.rs"]
mod oracle;

/// A case's table in each storage type.
struct Tables {
    rows: usize,
    width: usize,
    f32: Vec<f32>,
    f16: Vec<f16>,
    bf16: Vec<bf16>,
}

impl Tables {
    fn new(case: &Case) -> Tables {
        let f32 = case.table.clone();
        let f16 = f32.iter().map(|&x| f16::from_f32(x)).collect();
        let bf16 = f32.iter().map(|&x| bf16::from_f32(x)).collect();
        Tables { rows: case.rows(), width: case.width, f32, f16, bf16 }
    }

    fn get(&self, precision: Precision) -> Table<'_> {
        let values = match precision {
            Precision::F32 => Values::F32(&self.f32),
            Precision::F16 => Values::F16(&self.f16),
            Precision::Bf16 => Values::Bf16(&self.bf16),
        };
        Table::new(self.rows, self.width, values).unwrap()
    }
}

fn rounded(values: &[f32], precision: Precision) -> Vec<f32> {
    let round = |x: f32| match precision {
        Precision::F32 => x,
        Precision::F16 => f16::from_f32(x).to_f32(),
        Precision::Bf16 => bf16::from_f32(x).to_f32(),
    };
    values.iter().map(|&x| round(x)).collect()
}

/// What the CPU makes of a case.
fn on_cpu(case: &Case, table: &Table<'_>, isa: Isa) -> Result<Vec<f32>, OpError> {
    let mut output = vec![f32::NAN; case.items() * case.width];
    match &case.bags {
        None => gather(isa, table, &case.ids, case.unknown, &mut output)?,
        Some(CaseBags { offsets, weights, pooling, padding_id }) => {
            let input = Bags { offsets, ids: &case.ids, weights: weights.as_deref() };
            bags(isa, table, input, *pooling, *padding_id, case.unknown, &mut output)?;
        }
    }
    Ok(output)
}

/// As [`assert_bits`], and a NaN equals any other.
#[track_caller]
fn assert_same(what: &str, found: &[f32], expected: &[f32], shape: &[usize]) {
    let one_nan = |x: &[f32]| x.iter().map(|x| if x.is_nan() { f32::NAN } else { *x }).collect::<Vec<f32>>();
    assert_bits(what, &one_nan(found), &one_nan(expected), shape);
}
