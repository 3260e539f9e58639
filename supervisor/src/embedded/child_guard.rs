//! A child process that ends with the process that started it, even after `kill -9`.

use std::io::{self, PipeWriter, Write, pipe};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Child;
use tokio::time::timeout;

/// Runs the server beside a reader of a pipe whose other end the parent holds. Each line on the pipe
/// is a signal for the server. When the pipe closes, which even `kill -9` of the parent causes, the
/// server gets the final signal.
const SCRIPT: &str = r#"
exec 3<&0 </dev/null
final=$1; shift
"$@" 3<&- &
server=$!
(
    while read -r signal; do kill -s "$signal" $server; done
    kill -s "$final" $server
) <&3 3<&- 2>/dev/null &
reader=$!
wait $server
status=$?
kill $reader 2>/dev/null
exit $status
"#;

/// A running server. When the guard is dropped, the server gets its final signal.
#[derive(Debug)]
pub struct ChildGuard {
    signals: PipeWriter,
    shell: Child,
}

impl ChildGuard {
    /// A command that runs `server` and sends it the signal `final_signal` (such as `INT`) when the
    /// parent is gone. The caller adds arguments, environment and output.
    #[must_use]
    pub fn command(server: &Path, final_signal: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "child-guard", final_signal]).arg(server);
        command.current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts a command that [`ChildGuard::command`] made.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        let (reader, signals) = pipe()?;
        // In a process group of its own, the server does not get the terminal's Ctrl-C; the parent
        // stops it gracefully.
        command.stdin(reader).process_group(0);
        Ok(Self { signals, shell: tokio::process::Command::from(command).spawn()? })
    }

    /// Waits until the server has exited. Cancellation safe.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn exited(&mut self) -> io::Result<ExitStatus> {
        self.shell.wait().await
    }

    /// Sends `signal` (such as `TERM`), waits for at most `timeout_after`, then sends `KILL`.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn stop(mut self, signal: &str, timeout_after: Duration) -> io::Result<ExitStatus> {
        self.send(signal);
        if let Ok(exited) = timeout(timeout_after, self.exited()).await {
            return exited;
        }
        self.send("KILL");
        self.exited().await
    }

    /// Sends a signal (such as `STOP`).
    pub fn send(&mut self, signal: &str) {
        writeln!(self.signals, "{signal}").ok(); // the server may have exited already
    }
}
