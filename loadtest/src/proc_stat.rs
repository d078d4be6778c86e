//! What a process cost: CPU time and memory from `/proc`.
//!
//! CPU comes from the scheduler's own nanoseconds (`schedstat`) of every thread; the familiar `utime` counts in
//! ticks of 10 ms, too coarse for a run of a second. A thread that ends between two readings takes its time
//! with it, which no target here does.

use std::fs;

/// CPU time so far in nanoseconds, of all threads. `None` if the process is gone or not ours to see.
pub fn cpu_ns(pid: u32) -> Option<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        total += text.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    }
    if total > 0 { Some(total) } else { ticks_ns(pid) }
}

/// Kernels without schedstat: user and system ticks of 10 ms.
fn ticks_ns(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks * 10_000_000)
}

/// Resident memory in KiB.
pub fn rss_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_used_time_and_memory() {
        let pid = std::process::id();
        assert!(super::cpu_ns(pid).is_some_and(|ns| ns > 0));
        assert!(super::rss_kib(pid).is_some_and(|kib| kib > 100));
    }
}
