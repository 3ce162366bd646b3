//! A guest of Proxmox's: its sort, its id and where it is.

/// What Proxmox calls the two sorts of guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestType {
    /// A container.
    #[default]
    Lxc,
    /// A virtual machine.
    Qemu,
}

impl GuestType {
    /// As in paths and in rows of `/cluster/resources`.
    pub fn as_str(self) -> &'static str {
        match self {
            GuestType::Lxc => "lxc",
            GuestType::Qemu => "qemu",
        }
    }

    /// For people.
    pub fn noun(self) -> &'static str {
        match self {
            GuestType::Lxc => "container",
            GuestType::Qemu => "VM",
        }
    }

    /// The command line tool on the node.
    pub fn tool(self) -> &'static str {
        match self {
            GuestType::Lxc => "pct",
            GuestType::Qemu => "qm",
        }
    }

    /// The guest for people: `container 950`.
    pub fn named(self, vmid: i64) -> String {
        format!("{} {vmid}", self.noun())
    }
}
