//! What the kernel says of this process. Where it does not say (no `/proc`), the figure is 0.

/// Figures of the process, by the names that Prometheus's own clients use.
/// Source: <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_files: Option<u64>,
    pub(super) open_files_max: Option<u64>,
    pub(super) cpu_millis: Option<u64>,
}

impl Process {
    pub(super) fn now() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let millis = cpu.tv_sec.saturating_mul(1000) + cpu.tv_nsec / 1_000_000;
        let files = std::fs::read_dir("/proc/self/fd").ok();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Self {
            resident_bytes: resident_bytes(&text("/proc/self/status")),
            // The listing has one open itself.
            open_files: files.map(|files| (files.count() as u64).saturating_sub(1)),
            open_files_max: limit.current,
            cpu_millis: u64::try_from(millis).ok(),
        }
    }
}

/// From `/proc/self/status` (proc(5)), which has it in KiB whatever the page size.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tpayd\nVmRSS:\t    5120 kB\nThreads:\t4\n";
        assert_eq!(resident_bytes(status), Some(5120 * 1024));
        assert_eq!(resident_bytes("VmRSS: many\n"), None);
        assert_eq!(resident_bytes(""), None);
    }

    #[test]
    fn this_process_has_memory_files_and_time() {
        let process = Process::now();
        assert!(process.resident_bytes.is_some_and(|it| it > 1 << 20));
        assert!(process.open_files.is_some_and(|it| it >= 3));
        assert!(process.cpu_millis.is_some());
    }
}
