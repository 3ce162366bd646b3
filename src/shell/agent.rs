//! Runs the runner's programs in machines through the QEMU guest agent (facts F.8): nothing is streamed, input is
//! bounded, and what ended can be read once. The programs are short: they start scripts detached, or read records.

use std::time::Duration;

use crate::guest::{Captured, Output};
use crate::observed::Failure;
use crate::proxmox::{Client, Error};

use super::failure::{failure, of_call};

/// The agent takes so much input with a command, in bytes.
const INPUT: usize = 64 << 10;
/// A file is written in pieces of this size, which base64 makes 60 KiB.
const PIECE: usize = 45 << 10;
/// Longest that a program may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// Folder in the machine for input that is too large for one call.
const FOLDER: &str = "/run/phoenix-input";

/// Runs `sh` in the machine with `input` as its standard input.
///
/// # Errors
/// With the reason, and whether it may have run.
pub async fn run(client: &Client, node: &str, vmid: i64, input: &[u8]) -> Result<Output, (Failure, bool)> {
    let vmid = u32::try_from(vmid).unwrap_or_default();
    let of = |e: Error| (of_call(&e), e.may_have_happened());
    if input.len() <= INPUT {
        let text = String::from_utf8_lossy(input);
        let pid = client
            .agent_exec(node, vmid, &["/bin/sh", "-s"], &text)
            .await
            .map_err(of)?;
        return wait(client, node, vmid, pid).await;
    }
    // Input may hold secrets: the folder is root's alone before anything is put into it. Pieces of a run that was cut
    // off carry another number and go with the folder, which lies in memory.
    let run = rand::random::<u64>();
    let folder = format!("{FOLDER}/{run:016x}");
    let make = format!("umask 077 && mkdir -p {folder}");
    let made = exec(client, node, vmid, &["/bin/sh", "-c", &make]).await?;
    if !made.is_success() {
        return Ok(made);
    }
    for (n, piece) in input.chunks(PIECE).enumerate() {
        let file = format!("{folder}/{n:06}");
        client.agent_write(node, vmid, &file, piece).await.map_err(of)?;
    }
    exec(client, node, vmid, &["/bin/sh", "-c", &joined(&folder)]).await
}

/// Joins the pieces in a folder, runs them as one program, and leaves nothing of them.
fn joined(folder: &str) -> String {
    format!(
        "# phoenix-input: {folder}\numask 077; all={folder}.all; cat {folder}/* >\"$all\" && rm -rf {folder} && \
         exec 3<\"$all\" && rm -f \"$all\" && exec /bin/sh -s <&3"
    )
}

/// Runs a short command and waits for it.
///
/// # Errors
/// With the reason, and whether it may have run.
pub async fn exec(client: &Client, node: &str, vmid: u32, argv: &[&str]) -> Result<Output, (Failure, bool)> {
    let pid = client
        .agent_exec(node, vmid, argv, "")
        .await
        .map_err(|e| (of_call(&e), e.may_have_happened()))?;
    wait(client, node, vmid, pid).await
}

/// Waits for a program to end.
async fn wait(client: &Client, node: &str, vmid: u32, pid: i64) -> Result<Output, (Failure, bool)> {
    let started = tokio::time::Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        let status = client
            .agent_exec_status(node, vmid, pid)
            .await
            .map_err(|e| (of_call(&e), true))?;
        if status.exited {
            let captured = |text: Option<String>| {
                let mut captured = Captured::default();
                captured.push(text.unwrap_or_default().as_bytes());
                captured
            };
            return Ok(Output {
                exit: status
                    .exitcode
                    .map_or(255, |code| u32::try_from(code & 0xff).unwrap_or(255)),
                signal: status.signal.map(|s| s.to_string()),
                stdout: captured(status.out_data),
                stderr: captured(status.err_data),
            });
        }
        if started.elapsed() > DEADLINE {
            let message = format!("a command in VM {vmid} did not end within {} s", DEADLINE.as_secs());
            return Err((failure("GuestUnreachable", message), true));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a real shell: every byte arrives in order, and nothing is left.
    #[test]
    fn pieces_are_joined_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        std::fs::create_dir(&folder).unwrap();
        let program = format!("printf %s '{}'\n", "x".repeat(3 * PIECE));
        for (n, piece) in program.as_bytes().chunks(PIECE).enumerate() {
            std::fs::write(folder.join(format!("{n:06}")), piece).unwrap();
        }
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &joined(folder.to_str().unwrap())])
            .output()
            .unwrap();
        assert_eq!(
            output.stdout.len(),
            3 * PIECE,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
