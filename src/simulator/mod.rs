//! A Proxmox VE look-alike: HTTPS API and SSH.
