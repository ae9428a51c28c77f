//! `mercer devices`: what can run here, and why not.

use clap::Args;
use mercer::engine::devices;

use crate::failure::Failure;
use crate::output;
use crate::table::{Column, render};

/// Say what can run here, and why not
///
/// The cpu runs on the first of its instruction sets and on all threads unless --threads says otherwise; answers are the
/// same on all of them.
#[derive(Args)]
pub struct Devices {}

impl Devices {
    pub fn run(&self) -> Result<(), Failure> {
        let columns = [Column::text("device"), Column::text("runs"), Column::text("details")];
        let rows = devices().into_iter().map(|report| {
            let (runs, details) = match report.problem {
                None => ("yes", report.details),
                Some(problem) => ("no", problem.to_string()),
            };
            vec![report.device.to_string(), runs.into(), details]
        });
        output::print(&render(&columns, &rows.collect::<Vec<_>>()))
    }
}
