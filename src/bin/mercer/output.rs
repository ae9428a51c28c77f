//! What commands write: answers to standard output, progress to standard error, and the flag that Ctrl-C sets.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;

/// Writes an answer to standard output. A reader that has seen enough, such as `head`, is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes one JSON value and a line break to standard output.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let json =
        serde_json::to_string(value).map_err(|error| Failure::new(format!("cannot write JSON: {error}")))?;
    print(&(json + "\n"))
}

/// A bar on standard error; invisible if that is not a terminal.
pub fn progress(what: &str, total: usize) -> ProgressBar {
    let template = "{msg} {wide_bar} {human_pos}/{human_len}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let total = u64::try_from(total).unwrap_or(u64::MAX);
    ProgressBar::new(total).with_style(style).with_message(what.to_owned())
}

static STOPPED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C no longer ends the process but sets the flag that [`stopped`] reads.
pub fn catch_ctrl_c() -> Result<(), Failure> {
    ctrlc::set_handler(|| STOPPED.store(true, Ordering::Relaxed))
        .map_err(|error| Failure::new(format!("cannot catch Ctrl-C: {error}")))
}

/// Whether Ctrl-C was pressed after [`catch_ctrl_c`].
pub fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}
