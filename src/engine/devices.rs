//! What can run a model here, and what keeps the rest from it.

use super::Device;
#[cfg(not(feature = "cuda"))]
use super::EngineError;
use crate::Result;
use crate::cpu::Isa;

/// A device, whether or not it can be used.
#[derive(Debug)]
pub struct DeviceReport {
    /// What [`Options::device`](super::Options::device) takes. Without a driver there is one report for all CUDA cards, as
    /// number 0.
    pub device: Device,
    /// What it is and what this build has for it, in words.
    pub details: String,
    /// Why it cannot be used.
    pub problem: Option<crate::Error>,
}

/// The devices of this machine: the processor, then each CUDA card.
pub fn devices() -> Vec<DeviceReport> {
    let sets: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
    let threads = rayon::current_num_threads();
    let details = format!("{}, {}, {threads} threads", std::env::consts::ARCH, sets.join(" > "));
    let mut reports = vec![DeviceReport { device: Device::Cpu, details, problem: None }];
    match cuda() {
        Ok(cards) => reports.extend(cards),
        Err(problem) => reports.push(DeviceReport {
            device: Device::Cuda(0),
            details: String::new(),
            problem: Some(problem),
        }),
    }
    reports
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<Vec<DeviceReport>> {
    Err(EngineError::NoCuda.into())
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Vec<DeviceReport>> {
    use crate::cuda;

    let (driver, cards) = cuda::devices()?;
    if cards.is_empty() {
        return Err(cuda::CudaError::NoDevice { ordinal: 0, count: 0 }.into());
    }
    let report = |(ordinal, card): (usize, Result<cuda::DeviceInfo, cuda::CudaError>)| {
        let device = Device::Cuda(ordinal);
        match card.and_then(|info| cuda::Device::open(ordinal).map(|_| info)) {
            Ok(info) => {
                let (major, minor) = info.capability;
                let gib = info.memory as f64 / f64::from(1 << 30);
                let kernels = cuda::TARGETS.unwrap_or("the stand-in driver");
                let details = format!(
                    "{}, compute capability {major}.{minor}, {gib:.0} GiB, driver for CUDA {driver}, kernels for {kernels}",
                    info.name
                );
                DeviceReport { device, details, problem: None }
            }
            Err(error) => DeviceReport { device, details: String::new(), problem: Some(error.into()) },
        }
    };
    Ok(cards.into_iter().enumerate().map(report).collect())
}
