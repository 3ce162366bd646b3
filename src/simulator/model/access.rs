//! Users, tokens, roles and access rules (facts A.6, H).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

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

/// What a version has by itself.
struct BuiltIn {
    all: BTreeSet<String>,
    roles: BTreeMap<String, BTreeSet<String>>,
}

/// Before version 9, and since.
static BUILT_INS: LazyLock<[BuiltIn; 2]> = LazyLock::new(|| [built_in(8), built_in(9)]);

fn built_in(major: u32) -> BuiltIn {
    let mut all = words(ADMIN_PRIVS);
    all.extend(words(PVE_ADMIN_PRIVS));
    if major < 9 {
        all.retain(|name| !name.starts_with("VM.GuestAgent.") && name != "VM.Replicate");
        all.insert("VM.Monitor".to_owned());
    }
    let keep = |set: BTreeSet<String>| set.into_iter().filter(|name| all.contains(name)).collect();
    let mut roles: BTreeMap<String, BTreeSet<String>> = BUILT_IN
        .iter()
        .map(|(name, list)| ((*name).to_owned(), keep(words(list))))
        .collect();
    roles.insert("PVEAdmin".to_owned(), keep(words(PVE_ADMIN_PRIVS)));
    roles.insert("Administrator".to_owned(), all.clone());
    BuiltIn { all, roles }
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Every privilege that the version knows: in 8 `VM.Monitor` instead of the guest agent's (facts H).
pub fn all_privileges(major: u32) -> &'static BTreeSet<String> {
    &BUILT_INS[usize::from(major >= 9)].all
}

/// The built-in roles with their privileges.
pub fn built_in_roles(major: u32) -> &'static BTreeMap<String, BTreeSet<String>> {
    &BUILT_INS[usize::from(major >= 9)].roles
}

/// Privileges with the mark whether they hold below the path too.
pub type Privileges = BTreeMap<String, bool>;

impl Access {
    /// Privileges of a role, built-in or not.
    pub fn role(&self, major: u32, name: &str) -> Option<&BTreeSet<String>> {
        self.roles.get(name).or_else(|| built_in_roles(major).get(name))
    }

    /// Roles of one identity on a path: rules nearer to the path replace those above, rules for the identity itself
    /// go before those of its groups.
    fn roles_at<'a>(&'a self, who: &str, path: &str) -> BTreeMap<&'a str, bool> {
        let kind = if who.contains('!') { "token" } else { "user" };
        let groups = self.users.get(who).map(|user| &user.groups);
        // The nearest level that has a rule, by those for the identity and those for its groups.
        let mut nearest: [(usize, BTreeMap<&str, bool>); 2] = Default::default();
        for entry in &self.acl {
            let above = covers(&entry.path, path).filter(|_| entry.propagate || entry.path == path);
            let of_group = match &*entry.kind {
                "group" => groups.is_some_and(|groups| groups.contains(&entry.who)).then_some(1),
                found => (found == kind && entry.who == who).then_some(0),
            };
            let (Some(level), Some(sort)) = (above, of_group) else {
                continue;
            };
            let (best, roles) = &mut nearest[sort];
            if level > *best {
                (*best, *roles) = (level, BTreeMap::new());
            }
            if level == *best {
                roles.insert(&entry.role, entry.propagate);
            }
        }
        let [own, of_groups] = nearest;
        let (_, mut roles) = if own.0 >= of_groups.0 { own } else { of_groups };
        if roles.contains_key(NO_ACCESS) {
            roles.retain(|name, _| *name == NO_ACCESS);
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
            return all_privileges(major).iter().map(|name| (name.clone(), true)).collect();
        }
        let mut found = Privileges::new();
        for (role, propagate) in self.own_roles(who, path, pools) {
            for name in self.role(major, role).into_iter().flatten() {
                let entry = found.entry(name.clone()).or_insert(false);
                *entry |= propagate;
            }
        }
        found
    }

    /// Roles that give something: those of the path, and of the pools that its object is in.
    fn own_roles(&self, who: &str, path: &str, pools: &[String]) -> BTreeMap<&str, bool> {
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
            roles.clear();
        }
        roles
    }

    /// Whether a user or token has a privilege on a path, as [`Self::privileges`] has it.
    pub fn holds(&self, major: u32, who: &str, path: &str, pools: &[String], privilege: &str) -> bool {
        let own = |who: &str| match who {
            "root@pam" => all_privileges(major).contains(privilege),
            who => {
                let roles = self.own_roles(who, path, pools);
                let mut roles = roles.keys().filter_map(|role| self.role(major, role));
                roles.any(|role| role.contains(privilege))
            }
        };
        let Some((user, token)) = who.split_once('!') else {
            return own(who);
        };
        match self.users.get(user).and_then(|found| found.tokens.get(token)) {
            None => false,
            Some(found) if !found.privsep => own(user),
            Some(_) if user == "root@pam" => own(who),
            Some(_) => own(who) && own(user),
        }
    }
}

/// How near a rule's path is to one that it is above or equal to: how many parts it has, and one.
fn covers(rule: &str, path: &str) -> Option<usize> {
    if rule == "/" {
        return Some(1);
    }
    let mut path = path.split('/').filter(|part| !part.is_empty());
    let mut parts = rule.split('/');
    let absolute = parts.next() == Some("") && rule.len() > 1;
    let mut level = 1;
    for part in parts {
        if part.is_empty() || path.next() != Some(part) {
            return None;
        }
        level += 1;
    }
    absolute.then_some(level)
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
