//! The memory of a process.

use anyhow::Context;

/// Memory of a process that is resident, in bytes.
pub(crate) fn resident(process_id: u32) -> anyhow::Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("it is a Linux")?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1_024)
}
