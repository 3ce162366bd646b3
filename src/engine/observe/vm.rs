//! What only machines are asked.

use crate::engine::connection::Connection;
use crate::observed::{Agent, CloudInitState, Guest};
use crate::pve::GuestRef;
use crate::reason::{Cause, Reason};
use crate::remote::node;
use crate::secret::Secret;

use super::address;

/// Whether the guest agent answers, and what it knows.
pub(super) async fn agent(connection: &Connection, guest: &Guest, cloud_init: bool) -> Result<Agent, Cause> {
    let (client, at) = (&connection.client, &guest.at);
    match client.agent_ping(at).await {
        Ok(()) => {}
        Err(crate::proxmox::Error::Refused { message, .. }) => return Ok(Agent::Silent(message)),
        Err(error) => return Err(Cause::from(&error)),
    }
    let interfaces = client.agent_interfaces(at).await?;
    let ip = address::of_guest(guest, interfaces.iter().map(address::Interface::from));
    let cloud_init_done = match cloud_init {
        true => {
            // A machine without cloud-init refuses the command.
            let answer = crate::engine::agent::exec(client, at, &["cloud-init", "status"]).await;
            let words = answer.map(|o| o.stdout.text()).unwrap_or_default();
            let at_work = ["status: running", "status: not run", "status: not started"];
            Some(!at_work.iter().any(|w| words.contains(w)))
        }
        false => None,
    };
    Ok(Agent::Answers { ip, cloud_init_done })
}

/// Whether a snippet is on the node.
pub(super) async fn snippet(connection: &Connection, on: &str, volid: &str) -> Result<bool, Cause> {
    let output = connection
        .ssh(on, &node::find_snippet(volid))
        .await
        .map_err(|(f, _)| f)?;
    if !output.is_success() {
        let message = format!("cannot look for snippet {volid} on node {on}: {}", output.complaint());
        return Err(Cause::new(Reason::CommandFailed, message));
    }
    Ok(output.stdout.text().lines().any(|l| l == "present=1"))
}

/// What the cloud-init drive lacks, and the password hash that the configuration hides.
pub(super) async fn cloud_init(
    connection: &Connection,
    at: &GuestRef,
    password: bool,
) -> Result<CloudInitState, Cause> {
    let client = &connection.client;
    let rows = client.cloud_init_pending(at).await?;
    let pending = rows.into_iter().filter(|r| r.is_pending()).map(|r| r.key).collect();
    let password = match password {
        true => {
            let text = client.cloud_init_user_data(at).await?;
            password_of(&text)
        }
        false => None,
    };
    Ok(CloudInitState { pending, password })
}

/// The `password:` of user-data as Proxmox renders it: one key a line.
fn password_of(user_data: &str) -> Option<Secret> {
    let value = user_data.lines().find_map(|l| l.strip_prefix("password:"))?.trim();
    let value = value.trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| Secret::new(value))
}
