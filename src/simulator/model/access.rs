//! Users, tokens, roles and access rules (facts A.6, H).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// An API token of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The secret.
    pub secret: String,
    /// With separated privileges a token has what both it and its user have.
    pub privsep: bool,
    /// Expiry in seconds since 1970; 0 is never.
    pub expire: u64,
    /// Free text.
    pub comment: Option<String>,
}

/// A user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Password; none where log-in with one is impossible.
    pub password: Option<String>,
    /// Disabled users and their tokens are refused.
    pub enable: bool,
    /// Expiry in seconds since 1970; 0 is never.
    pub expire: u64,
    /// Further settings (`comment`, `email`, …).
    pub settings: BTreeMap<String, String>,
    /// Groups.
    pub groups: BTreeSet<String>,
    /// Tokens by name.
    pub tokens: BTreeMap<String, Token>,
}

/// One access rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AclEntry {
    /// Path such as `/vms/100`.
    pub path: String,
    /// `user`, `group` or `token`.
    pub kind: String,
    /// Who.
    pub who: String,
    /// Role.
    pub role: String,
    /// Whether it holds below the path too.
    pub propagate: bool,
}

/// The user configuration of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Users by name with realm.
    pub users: BTreeMap<String, User>,
    /// Groups with comment.
    pub groups: BTreeMap<String, String>,
    /// Roles that somebody defined; built-in ones are not listed here.
    pub roles: BTreeMap<String, BTreeSet<String>>,
    /// Access rules.
    pub acl: BTreeSet<AclEntry>,
}

const ADMIN_PRIVS: &str = "Permissions.Modify Realm.Allocate Sys.Modify Sys.Incoming Sys.AccessNetwork Sys.PowerMgmt \
    Mapping.Modify";
const PVE_ADMIN_PRIVS: &str = "Datastore.Allocate Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit \
    Group.Allocate Mapping.Audit Mapping.Use Pool.Allocate Pool.Audit Realm.AllocateUser SDN.Allocate SDN.Audit SDN.Use \
    Sys.Audit Sys.Console Sys.Syslog User.Modify VM.Allocate VM.Audit VM.Backup VM.Clone VM.Config.CDROM VM.Config.CPU \
    VM.Config.Cloudinit VM.Config.Disk VM.Config.HWType VM.Config.Memory VM.Config.Network VM.Config.Options VM.Console \
    VM.GuestAgent.Audit VM.GuestAgent.FileRead VM.GuestAgent.FileSystemMgmt VM.GuestAgent.FileWrite \
    VM.GuestAgent.Unrestricted VM.Migrate VM.PowerMgmt VM.Replicate VM.Snapshot VM.Snapshot.Rollback";
const BUILT_IN: &[(&str, &str)] = &[
    ("NoAccess", ""),
    (
        "PVEAuditor",
        "Datastore.Audit Mapping.Audit Pool.Audit SDN.Audit Sys.Audit VM.Audit VM.GuestAgent.Audit",
    ),
    (
        "PVEDatastoreAdmin",
        "Datastore.Allocate Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit",
    ),
    ("PVEDatastoreUser", "Datastore.AllocateSpace Datastore.Audit"),
    ("PVEMappingAdmin", "Mapping.Audit Mapping.Modify Mapping.Use"),
    ("PVEMappingUser", "Mapping.Audit Mapping.Use"),
    ("PVEPoolAdmin", "Pool.Allocate Pool.Audit"),
    ("PVEPoolUser", "Pool.Audit"),
    ("PVESDNAdmin", "SDN.Allocate SDN.Audit SDN.Use"),
    ("PVESDNUser", "SDN.Audit SDN.Use"),
    ("PVESysAdmin", "Sys.Audit Sys.Console Sys.Syslog"),
    ("PVETemplateUser", "VM.Audit VM.Clone"),
    ("PVEUserAdmin", "Group.Allocate Realm.AllocateUser User.Modify"),
    (
        "PVEVMAdmin",
        "VM.Allocate VM.Audit VM.Backup VM.Clone VM.Config.CDROM VM.Config.CPU VM.Config.Cloudinit VM.Config.Disk \
         VM.Config.HWType VM.Config.Memory VM.Config.Network VM.Config.Options VM.Console VM.GuestAgent.Audit \
         VM.GuestAgent.FileRead VM.GuestAgent.FileSystemMgmt VM.GuestAgent.FileWrite VM.GuestAgent.Unrestricted \
         VM.Migrate VM.PowerMgmt VM.Replicate VM.Snapshot VM.Snapshot.Rollback",
    ),
    (
        "PVEVMUser",
        "VM.Audit VM.Backup VM.Config.CDROM VM.Config.Cloudinit VM.Console VM.GuestAgent.Audit VM.GuestAgent.FileRead \
         VM.GuestAgent.FileSystemMgmt VM.GuestAgent.FileWrite VM.PowerMgmt",
    ),
];

/// The role that takes all others away.
const NO_ACCESS: &str = "NoAccess";

/// Every privilege that the version knows: in 8 `VM.Monitor` instead of the guest agent's (facts H).
pub fn all_privileges(major: u32) -> BTreeSet<String> {
    let mut all = words(ADMIN_PRIVS);
    all.extend(words(PVE_ADMIN_PRIVS));
    if major < 9 {
        all.retain(|name| !name.starts_with("VM.GuestAgent.") && name != "VM.Replicate");
        all.insert("VM.Monitor".to_owned());
    }
    all
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The built-in roles with their privileges.
pub fn built_in_roles(major: u32) -> BTreeMap<String, BTreeSet<String>> {
    let all = all_privileges(major);
    let keep = |set: BTreeSet<String>| set.into_iter().filter(|name| all.contains(name)).collect();
    let mut roles: BTreeMap<String, BTreeSet<String>> = BUILT_IN
        .iter()
        .map(|(name, list)| ((*name).to_owned(), keep(words(list))))
        .collect();
    roles.insert("PVEAdmin".to_owned(), keep(words(PVE_ADMIN_PRIVS)));
    roles.insert("Administrator".to_owned(), all.clone());
    roles
}

/// Privileges with the mark whether they hold below the path too.
pub type Privileges = BTreeMap<String, bool>;

impl Access {
    /// Privileges of a role, built-in or not.
    pub fn role(&self, major: u32, name: &str) -> Option<BTreeSet<String>> {
        self.roles
            .get(name)
            .cloned()
            .or_else(|| built_in_roles(major).remove(name))
    }

    /// Roles of one identity on a path: rules nearer to the path replace those above, rules for the identity itself
    /// go before those of its groups.
    fn roles_at(&self, who: &str, path: &str) -> BTreeMap<String, bool> {
        let token = who.contains('!');
        let kind = if token { "token" } else { "user" };
        let groups = self.users.get(who).map(|user| user.groups.clone()).unwrap_or_default();
        let mut roles = BTreeMap::new();
        for level in levels(path) {
            let here = |kind: &str, names: &dyn Fn(&str) -> bool| -> BTreeMap<String, bool> {
                self.acl
                    .iter()
                    .filter(|entry| entry.path == level && entry.kind == kind && names(&entry.who))
                    .filter(|entry| entry.propagate || level == path)
                    .map(|entry| (entry.role.clone(), entry.propagate))
                    .collect()
            };
            let own = here(kind, &|name| name == who);
            let found = if own.is_empty() {
                here("group", &|name| groups.contains(name))
            } else {
                own
            };
            if !found.is_empty() {
                roles = found;
            }
        }
        if roles.contains_key(NO_ACCESS) {
            roles.retain(|name, _| name == NO_ACCESS);
        }
        roles
    }

    /// Effective privileges of a user or token on a path. `pools` are the pools that the object of the path is in.
    pub fn privileges(&self, major: u32, who: &str, path: &str, pools: &[String]) -> Privileges {
        let Some((user, token)) = who.split_once('!') else {
            return self.own_privileges(major, who, path, pools);
        };
        let of_user = self.own_privileges(major, user, path, pools);
        match self.users.get(user).and_then(|found| found.tokens.get(token)) {
            None => Privileges::new(),
            Some(found) if !found.privsep => of_user,
            Some(_) if user == "root@pam" => self.own_privileges(major, who, path, pools),
            Some(_) => {
                let own = self.own_privileges(major, who, path, pools);
                let both = own.into_iter().filter_map(|(name, below)| {
                    let of_user = *of_user.get(&name)?;
                    Some((name, of_user && below))
                });
                both.collect()
            }
        }
    }

    fn own_privileges(&self, major: u32, who: &str, path: &str, pools: &[String]) -> Privileges {
        if who == "root@pam" {
            return all_privileges(major).into_iter().map(|name| (name, true)).collect();
        }
        let mut roles = self.roles_at(who, path);
        if !roles.contains_key(NO_ACCESS) {
            for pool in pools {
                for (role, _) in self.roles_at(who, &format!("/pool/{pool}")) {
                    // What comes from a pool holds for its members, not below them.
                    roles.entry(role).or_insert(false);
                }
            }
        }
        if roles.contains_key(NO_ACCESS) {
            return Privileges::new();
        }
        let mut found = Privileges::new();
        for (role, propagate) in roles {
            for name in self.role(major, &role).unwrap_or_default() {
                let entry = found.entry(name).or_insert(false);
                *entry |= propagate;
            }
        }
        found
    }
}

/// `/`, `/vms`, `/vms/100` for `/vms/100`.
pub fn levels(path: &str) -> Vec<String> {
    let mut found = vec!["/".to_owned()];
    let mut at = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        at.push('/');
        at.push_str(part);
        found.push(at.clone());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let mut access = Access::default();
        let token = Token {
            secret: String::new(),
            privsep: true,
            expire: 0,
            comment: None,
        };
        let mut user = User {
            enable: true,
            ..User::default()
        };
        user.tokens.insert("lim".to_owned(), token);
        access.users.insert("ops@pve".to_owned(), user);
        access
    }

    fn rule(access: &mut Access, path: &str, kind: &str, who: &str, role: &str) {
        access.acl.insert(AclEntry {
            path: path.to_owned(),
            kind: kind.to_owned(),
            who: who.to_owned(),
            role: role.to_owned(),
            propagate: true,
        });
    }

    #[test]
    fn separated_tokens_get_the_intersection() {
        let mut access = access();
        rule(&mut access, "/vms/100", "token", "ops@pve!lim", "PVEVMUser");
        assert!(access.privileges(9, "ops@pve!lim", "/vms/100", &[]).is_empty());
        rule(&mut access, "/", "user", "ops@pve", "PVEAuditor");
        let found = access.privileges(9, "ops@pve!lim", "/vms/100", &[]);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["VM.Audit", "VM.GuestAgent.Audit"]);
    }

    #[test]
    fn nearer_rules_replace_and_pools_add() {
        let mut access = access();
        rule(&mut access, "/", "user", "ops@pve", "Administrator");
        rule(&mut access, "/vms", "user", "ops@pve", "PVEAuditor");
        assert!(
            !access
                .privileges(9, "ops@pve", "/vms/1", &[])
                .contains_key("VM.Allocate")
        );
        rule(&mut access, "/pool/dev", "user", "ops@pve", "PVEVMAdmin");
        assert!(
            access
                .privileges(9, "ops@pve", "/vms/1", &["dev".to_owned()])
                .contains_key("VM.Allocate")
        );
    }
}
