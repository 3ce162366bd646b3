//! Snapshots of what Proxmox says (pure data).
