//! `mercer devices`: what can run here, and why not.

use clap::Args;
use mercer::cpu::Isa;

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
        let sets: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
        let threads = rayon::current_num_threads();
        let cpu = format!("{}, {}, {threads} threads", std::env::consts::ARCH, sets.join(" > "));
        let columns = [Column::text("device"), Column::text("runs"), Column::text("details")];
        let row = |cells: [&str; 3]| cells.map(String::from).to_vec();
        let rows = [row(["cpu", "yes", &cpu]), row(["cuda", "no", "this build has no CUDA support"])];
        output::print(&render(&columns, &rows))
    }
}
