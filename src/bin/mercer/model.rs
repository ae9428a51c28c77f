//! The arguments that every command with a model has.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use mercer::{Device, Engine, Options};

use crate::failure::Failure;

#[derive(Args)]
pub struct ModelArgs {
    /// The model's folder
    #[arg(long, value_name = "DIR", default_value = "weights/demo")]
    pub model: PathBuf,
    #[command(flatten)]
    machine: MachineArgs,
}

#[derive(Args)]
pub struct MachineArgs {
    /// Worker threads, as many as there are cores if not given; the answer does not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Where to run; `mercer devices` says what can
    #[arg(long, default_value = "cpu", value_parser = device)]
    device: Device,
}

impl ModelArgs {
    /// Opens the model on the machine as asked.
    pub fn open(&self) -> Result<Engine, Failure> {
        let device = self.machine.prepare()?;
        Ok(Engine::open(&self.model, Options::default().device(device))?)
    }
}

impl MachineArgs {
    /// Starts the worker threads, and returns where to run.
    pub fn prepare(&self) -> Result<Device, Failure> {
        if let Some(threads) = self.threads {
            let built = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global();
            built.map_err(|error| Failure::new(format!("cannot start {threads} threads: {error}")))?;
        }
        Ok(self.device)
    }
}

fn device(name: &str) -> Result<Device, String> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" => Err("this build has no CUDA support".into()),
        _ => Err("only cpu is supported".into()),
    }
}
