//! `phoenix simulate`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::simulator::files::SimFiles;
use crate::simulator::ssh::{SshConfig, SshServer};
use crate::simulator::{Profile, SimConfig, Simulator};

/// Arguments of `phoenix simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the HTTPS API; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8006")]
    listen: SocketAddr,

    /// Address of the SSH server of the nodes; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:2222")]
    ssh_listen: SocketAddr,

    /// Folder for the CA certificate, secrets and simulator.json; made if missing, reused otherwise
    #[arg(long, default_value = ".phoenix-simulator")]
    dir: PathBuf,

    /// How many times faster than real tasks run
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    time_scale: f64,

    /// File that keeps the state over restarts
    #[arg(long)]
    state: Option<PathBuf>,

    /// Initial inventory, when there is no state file yet
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,

    /// Program that is told of what happens to guests: PROGRAM PHASE VMID [ARGUMENT…], configuration on standard input
    #[arg(long)]
    guest_hook: Option<PathBuf>,

    /// Proxmox VE version to claim; 8.x, 9.0 and later ones differ in defaults and privileges
    #[arg(long)]
    pve_version: Option<String>,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if number.is_finite() && number > 0.0 {
        Ok(number)
    } else {
        Err("must be greater than 0".to_owned())
    }
}

impl Args {
    /// Runs the command until it is interrupted.
    pub fn run(self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        match runtime.and_then(|runtime| runtime.block_on(self.serve())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                errln!("phoenix simulate: {error}");
                ExitCode::FAILURE
            }
        }
    }

    async fn serve(self) -> io::Result<()> {
        let files = SimFiles::open(&self.dir, self.listen.ip())?;
        let simulator = Simulator::new(SimConfig {
            profile: self.profile,
            version: self.pve_version.clone(),
            secrets: files.secrets.clone(),
            time_scale: self.time_scale,
            state_file: self.state.clone(),
            control_token: files.control_token.clone(),
            guest_hook: self.guest_hook.clone(),
            ..SimConfig::default()
        })?;
        let server = simulator
            .serve(self.listen, Some(&files.certificates))
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {}: {error}", self.listen)))?;
        let config = SshConfig {
            listen: self.ssh_listen,
            authorized_keys: vec![files.ssh_public_key.clone()],
        };
        let ssh = SshServer::start(&simulator, config)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("SSH on {}: {error}", self.ssh_listen)))?;
        let description = files.describe(self.profile, &server.base_url, &ssh)?;
        files.publish(&description, &ssh.known_hosts())?;
        outln!("Proxmox VE look-alike listens on {}", server.base_url);
        outln!("SSH: {}", description["ssh"]);
        outln!("CA certificate, secrets and description: {}", self.dir.display());
        stopped().await?;
        files.withdraw();
        server.stop();
        Ok(())
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn stopped() -> io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}
