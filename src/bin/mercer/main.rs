//! The `mercer` command: a thin line over the library, one file per subcommand.

mod devices;
mod encode;
mod eval;
mod failure;
mod index;
mod inspect;
mod knn;
mod metrics;
mod model;
mod output;
mod products;
mod requests;
mod search;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::Failure;

/// Multimodal product search: encode text, photos, users and behaviour into one vector space, and find the exact best
/// products of a catalogue.
///
/// A model is a folder with config.json, model.safetensors and tokenizer.json; without --model it is weights/demo. A
/// catalogue is a file with one JSON object per line: `id`, `text`, `image` (a path from the file's folder), `user`,
/// `behaviour`, and any further fields, which are kept.
///
/// Answers go to standard output, everything else to standard error. The exit code is 0 if all went well, 2 if the
/// command line was not understood, 130 after Ctrl-C, and 1 for every other error.
#[derive(Parser)]
#[command(name = "mercer", version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Search(search::Search),
    Index(index::Index),
    Encode(encode::Encode),
    Knn(knn::Knn),
    Eval(eval::Eval),
    Inspect(inspect::Inspect),
    Devices(devices::Devices),
}

impl Command {
    fn run(&self) -> Result<(), Failure> {
        match self {
            Command::Search(search) => search.run(),
            Command::Index(index) => index.run(),
            Command::Encode(encode) => encode.run(),
            Command::Knn(knn) => knn.run(),
            Command::Eval(eval) => eval.run(),
            Command::Inspect(inspect) => inspect.run(),
            Command::Devices(devices) => devices.run(),
        }
    }
}

fn main() -> ExitCode {
    let result = match Cli::try_parse() {
        Ok(cli) => cli.command.run(),
        Err(error) => usage(&error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.report()),
    }
}

/// What clap has to say: help and versions as they are, an error as one line and a hint.
fn usage(error: &clap::Error) -> Result<(), Failure> {
    use clap::error::ContextKind::InvalidArg;
    use clap::error::ErrorKind::UnknownArgument;
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    match error.kind() {
        DisplayHelp | DisplayVersion => return output::print(&error.render().to_string()),
        DisplayHelpOnMissingArgumentOrSubcommand => {
            return Err(Failure::usage("no command given").hint("`mercer --help` lists the commands"));
        }
        _ => {}
    }
    let text = error.render().to_string();
    let joined = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut paragraphs = text.split("\n\n").map(joined);
    let message = paragraphs.next().unwrap_or_default();
    let failure = Failure::usage(message.trim_start_matches("error: "));
    let tip = paragraphs.find_map(|paragraph| Some(paragraph.strip_prefix("tip: ")?.to_owned()));
    let word = |argument: &clap::error::ContextValue| !argument.to_string().starts_with('-');
    if error.kind() == UnknownArgument && error.get(InvalidArg).is_some_and(word) {
        return Err(failure.hint("put a text of several words in quotes"));
    }
    let command = std::env::args().nth(1).filter(|name| Cli::has_command(name));
    let help = command.map_or("mercer --help".to_owned(), |command| format!("mercer {command} --help"));
    Err(failure.hint(tip.unwrap_or_else(|| format!("`{help}` explains the arguments"))))
}

impl Cli {
    fn has_command(name: &str) -> bool {
        Cli::command().find_subcommand(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
