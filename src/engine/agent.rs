//! Runs the runner's programs in machines through the QEMU guest agent (facts F.8): nothing is streamed, input is
//! bounded, and what ended can be read once. The runner's programs are short: they start scripts detached, or read records.
//! What people run ([`start`], [`end`]) may take as long as it takes.

use std::time::Duration;

use crate::proxmox::qemu::ExecStatus;
use crate::proxmox::{Client, Error};
use crate::pve::GuestRef;
use crate::reason::{Cause, Reason};
use crate::remote::{Captured, Output};

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
pub async fn run(client: &Client, at: &GuestRef, input: &[u8]) -> Result<Output, (Cause, bool)> {
    let of = |e: Error| (Cause::from(&e), e.may_have_happened());
    if input.len() <= INPUT {
        let text = String::from_utf8_lossy(input);
        let pid = client.agent_exec(at, &["/bin/sh", "-s"], &text).await.map_err(of)?;
        return wait(client, at, pid).await;
    }
    let folder = match send(client, at, input).await? {
        Ok(folder) => folder,
        Err(refused) => return Ok(refused),
    };
    exec(client, at, &["/bin/sh", "-c", &joined(&folder, "/bin/sh -s")]).await
}

/// Starts a program in the machine whose input may have any size and hold any bytes; its process id.
///
/// # Errors
/// With the reason, and whether it may have run.
pub async fn start(client: &Client, at: &GuestRef, argv: &[&str], input: &[u8]) -> Result<i64, (Cause, bool)> {
    let of = |e: Error| (Cause::from(&e), e.may_have_happened());
    // Proxmox takes the input as text.
    if input.len() <= INPUT && input.is_ascii() {
        let text = String::from_utf8_lossy(input);
        return client.agent_exec(at, argv, &text).await.map_err(of);
    }
    let folder = match send(client, at, input).await? {
        Ok(folder) => folder,
        Err(refused) => {
            let message = format!("{} does not take the input: {}", at.named(), refused.complaint());
            return Err((Cause::new(Reason::GuestUnreachable, message), false));
        }
    };
    let text = joined(&folder, "\"$@\"");
    let words = ["/bin/sh", "-c", &text, "phoenix-input"];
    let argv: Vec<&str> = words.into_iter().chain(argv.iter().copied()).collect();
    client.agent_exec(at, &argv, "").await.map_err(of)
}

/// Puts input that is too large for one call into the machine: the folder with its pieces, or what the machine said
/// where it has no room for it.
async fn send(client: &Client, at: &GuestRef, input: &[u8]) -> Result<Result<String, Output>, (Cause, bool)> {
    // Input may hold secrets: the folder is root's alone before anything is put into it. Pieces of a run that was cut
    // off carry another number and go with the folder, which lies in memory.
    let run = rand::random::<u64>();
    let folder = format!("{FOLDER}/{run:016x}");
    let make = format!("umask 077 && mkdir -p {folder}");
    let made = exec(client, at, &["/bin/sh", "-c", &make]).await?;
    if !made.is_success() {
        return Ok(Err(made));
    }
    for (n, piece) in input.chunks(PIECE).enumerate() {
        let file = format!("{folder}/{n:06}");
        let written = client.agent_write(at, &file, piece).await;
        written.map_err(|e| (Cause::from(&e), e.may_have_happened()))?;
    }
    Ok(Ok(folder))
}

/// Joins the pieces in a folder, runs a program with them as its input, and leaves nothing of them.
fn joined(folder: &str, program: &str) -> String {
    format!(
        "# phoenix-input: {folder}\numask 077; all={folder}.all; cat {folder}/* >\"$all\" && rm -rf {folder} && \
         exec 3<\"$all\" && rm -f \"$all\" && exec {program} <&3"
    )
}

/// Runs a short command and waits for it.
///
/// # Errors
/// With the reason, and whether it may have run.
pub async fn exec(client: &Client, at: &GuestRef, argv: &[&str]) -> Result<Output, (Cause, bool)> {
    let pid = client
        .agent_exec(at, argv, "")
        .await
        .map_err(|e| (Cause::from(&e), e.may_have_happened()))?;
    wait(client, at, pid).await
}

/// Waits for a short program to end.
async fn wait(client: &Client, at: &GuestRef, pid: i64) -> Result<Output, (Cause, bool)> {
    let Ok(ended) = tokio::time::timeout(DEADLINE, end(client, at, pid)).await else {
        let message = format!(
            "a command in {} did not end within {} s",
            at.named(),
            DEADLINE.as_secs()
        );
        return Err((Cause::new(Reason::GuestUnreachable, message), true));
    };
    let status = ended.map_err(|failure| (failure, true))?;
    let captured = |text: &Option<String>| {
        let mut captured = Captured::default();
        captured.push(text.as_deref().unwrap_or_default().as_bytes());
        captured
    };
    Ok(Output {
        exit: exit_code(&status),
        signal: status.signal.map(|s| s.to_string()),
        stdout: captured(&status.out_data),
        stderr: captured(&status.err_data),
    })
}

/// The exit code of a program that ended; 255 when a signal ended it.
pub fn exit_code(status: &ExecStatus) -> u32 {
    status
        .exitcode
        .map_or(255, |code| u32::try_from(code & 0xff).unwrap_or(255))
}

/// Waits for a program to end, however long that takes. What it said can be read this one time.
///
/// # Errors
/// With the reason; the program may still run.
pub async fn end(client: &Client, at: &GuestRef, pid: i64) -> Result<ExecStatus, Cause> {
    let mut pause = Duration::from_millis(50);
    loop {
        let status = client.agent_exec_status(at, pid).await;
        let status = status?;
        if status.exited {
            return Ok(status);
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
            .args(["-c", &joined(folder.to_str().unwrap(), "/bin/sh -s")])
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

    /// As input of another program, whatever bytes there are.
    #[test]
    fn pieces_are_the_input_of_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("000000"), b"\xff\0a").unwrap();
        std::fs::write(folder.join("000001"), b"b\n").unwrap();
        let text = joined(folder.to_str().unwrap(), "\"$@\"");
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &text, "phoenix-input", "cat", "-"])
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"\xff\0ab\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
