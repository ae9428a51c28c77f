//! The arguments that every command with a model has.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mercer::engine::Precision;
use mercer::{Device, Engine, Options};

use crate::failure::Failure;

#[derive(Args)]
pub struct ModelArgs {
    /// The model's folder
    #[arg(long, value_name = "DIR", default_value = "weights/demo")]
    pub model: PathBuf,
    /// How a CUDA card stores weights and activations; the CPU computes in f32
    #[arg(long, value_enum, default_value = "f32")]
    precision: PrecisionArg,
    #[command(flatten)]
    machine: MachineArgs,
}

#[derive(Args)]
pub struct MachineArgs {
    /// Worker threads, as many as there are cores if not given; the answer does not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Where to run: cpu, cuda or cuda:N; `mercer devices` says what can
    #[arg(long, default_value = "cpu", value_parser = device)]
    device: Device,
}

/// How a device stores weights and activations.
#[derive(Clone, Copy, ValueEnum)]
enum PrecisionArg {
    F32,
    F16,
    Bf16,
}

impl ModelArgs {
    /// Opens the model on the machine as asked.
    pub fn open(&self) -> Result<Engine, Failure> {
        let device = self.machine.prepare()?;
        let precision = match self.precision {
            PrecisionArg::F32 => Precision::F32,
            PrecisionArg::F16 => Precision::F16,
            PrecisionArg::Bf16 => Precision::Bf16,
        };
        Ok(Engine::open(&self.model, Options::default().device(device).precision(precision))?)
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
        "cuda" => Ok(Device::Cuda(0)),
        _ => name
            .strip_prefix("cuda:")
            .and_then(|ordinal| ordinal.parse().ok())
            .map(Device::Cuda)
            .ok_or_else(|| "a device is cpu, cuda or cuda:N".into()),
    }
}
