//! A server that ends with the process that started it, however that one ends.

use std::io::{self, PipeWriter, Write, pipe};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Child;
use tokio::time::timeout;

/// Runs the server beside a reader of the pipe that the owner holds. A word on the pipe is a signal
/// for the server; the end of the pipe, which even `kill -9` of the owner brings, is the last one.
const HOLD: &str = r#"
exec 3<&0 </dev/null
last=$1; shift
"$@" 3<&- &
server=$!
(
    while read -r signal; do kill -s "$signal" $server; done
    kill -s "$last" $server
) <&3 3<&- 2>/dev/null &
reader=$!
wait $server
status=$?
kill $reader 2>/dev/null
exit $status
"#;

/// A running server. Dropped, it gets its last signal and ends by itself.
#[derive(Debug)]
pub struct Leash {
    words: PipeWriter,
    shell: Child,
}

impl Leash {
    /// The command that runs `server` on a leash and sends it the signal `last` (`INT`, say) when
    /// its owner is gone. Arguments, environment and output are the caller's to add.
    #[must_use]
    pub fn command(server: &Path, last: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", HOLD, "leash", last]).arg(server);
        command.current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts what [`Leash::command`] prepared.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn hold(mut command: Command) -> io::Result<Self> {
        let (end, words) = pipe()?;
        command.stdin(end).process_group(0); // Ctrl-C is for the owner, who ends it in good order
        Ok(Self { words, shell: tokio::process::Command::from(command).spawn()? })
    }

    /// Resolves when the server has ended, with what it ended with. Safe to cancel.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.shell.wait().await
    }

    /// Sends `signal` (`TERM`, say) and, if the server does not end in time, `KILL`.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn end(mut self, signal: &str, patience: Duration) -> io::Result<ExitStatus> {
        self.send(signal);
        if let Ok(ended) = timeout(patience, self.ended()).await {
            return ended;
        }
        self.send("KILL");
        self.ended().await
    }

    /// Sends it a signal (`STOP`, say).
    pub fn send(&mut self, signal: &str) {
        writeln!(self.words, "{signal}").ok(); // it may have ended by itself
    }
}
