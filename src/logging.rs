//! What the server says about itself, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line, for collectors.
    Json,
    /// For people.
    Text,
}

/// The variable that says what is logged, such as `info` or `theazo=debug,warn`.
const FILTER_VARIABLE: &str = "THEAZO_LOG";

/// Begins to log. Without a format it is text on a terminal and JSON elsewhere; without a filter, `default_filter`.
///
/// # Errors
/// When the filter in the environment is malformed; the text says how.
pub fn start(format: Option<Format>, default_filter: &str) -> Result<(), String> {
    let wanted = std::env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.trim().is_empty());
    let filter = EnvFilter::try_new(wanted.as_deref().unwrap_or(default_filter))
        .map_err(|error| format!("{FILTER_VARIABLE} is not a filter: {error}"))?;
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(false);
    // A second start changes nothing: whatever is there already gets the lines.
    let _started = match format {
        Format::Json => {
            logs.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
        }
        Format::Text => logs.with_target(false).try_init(),
    };
    Ok(())
}
