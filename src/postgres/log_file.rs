//! PostgreSQL's output: into a file of bounded size, its worst lines into our own log, its last lines kept for errors.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::Error;

/// The log file's size at which it becomes `postgres.log.1`, in place of the one before.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Lines kept in memory.
const TAIL_LINES_MAX: usize = 20;

/// The longest piece handled at once: a logged statement can be long.
const LINE_BYTES_MAX: u64 = 8 * 1024;

/// The last lines of the log.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    /// The lines as one text.
    pub(super) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if lines.len() == TAIL_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Reads `output` to its end on a thread of its own: PostgreSQL waits when its output is not read, so that must not
/// depend on how busy the runtime is. The receiver hears when the output has ended.
pub(super) fn follow(
    output: PipeReader,
    path: &Path,
    tail: Tail,
) -> Result<tokio::sync::oneshot::Receiver<()>, Error> {
    let mut log = LogFile::open(path).map_err(Error::file("open the log file", path))?;
    let (ended, end) = tokio::sync::oneshot::channel();
    let pump = move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while (&mut output).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if text.contains("FATAL:") || text.contains("PANIC:") {
                tracing::warn!(target: "theazo::postgres::log", "{text}");
            } else {
                tracing::debug!(target: "theazo::postgres::log", "{text}");
            }
            tail.push(text);
            // A full disk must not stop the reading.
            let _lost = log.write(&line);
            line.clear();
        }
        let _nobody_waits = ended.send(());
    };
    std::thread::Builder::new()
        .name("postgres-log".to_owned())
        .spawn(pump)
        .map_err(Error::file("follow", path))?;
    Ok(end)
}

struct LogFile {
    path: PathBuf,
    file: File,
    size_bytes: u64,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<LogFile> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let size_bytes = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, size_bytes })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size_bytes >= FILE_BYTES_MAX {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = LogFile::open(&self.path)?;
        }
        self.size_bytes += line.len() as u64;
        self.file.write_all(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_file_gives_way_to_a_new_one() {
        let dir = std::env::temp_dir().join(format!("theazo-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("postgres.log");
        let mut log = LogFile::open(&path).unwrap();
        log.size_bytes = FILE_BYTES_MAX;
        log.write(b"after\n").unwrap();
        let (new, old) = (std::fs::read(&path).unwrap(), dir.join("postgres.log.1").exists());
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((new.as_slice(), old), (b"after\n".as_slice(), true));
    }
}
