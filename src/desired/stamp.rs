//! The ownership stamp: the last line of a guest's description, proof of whose it is (promise 1, facts K.3).

use std::fmt;

use crate::pve::Vmid;

use super::Key;

const PREFIX: &str = "<!-- phoenix-hypervisor.io ";
const SUFFIX: &str = " -->";

/// Whose a guest is: an object of a management cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Management cluster id.
    pub cluster: String,
    /// Kind of the object (`PhoenixLXC`, `PhoenixTemplate`, or `VolumeOwner` for owner containers).
    pub kind: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// uid of the object: information only.
    pub uid: String,
}

impl Identity {
    /// The identity of an object of a management cluster.
    pub fn of(cluster_id: &str, key: &Key, uid: &str) -> Self {
        Identity {
            cluster: cluster_id.into(),
            kind: key.kind.as_str().into(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: uid.into(),
        }
    }

    /// A stamp for the guest with this id, with nothing else in it.
    pub fn stamp(&self, vmid: Vmid) -> Stamp {
        Stamp {
            cluster: self.cluster.clone(),
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            vmid,
            fresh: false,
            adopted: false,
            revision: None,
            parent: None,
            image: None,
            template: None,
            keys: None,
            boot: None,
        }
    }
}

/// Whose this guest is, for which vmid the stamp was made, and whether it was ever finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Management cluster id.
    pub cluster: String,
    /// Kind of the object (`PhoenixLXC`, `PhoenixTemplate`, or `VolumeOwner` for owner containers).
    pub kind: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// uid of the object: information only.
    pub uid: String,
    /// The vmid that the stamp was made for; copies of the guest carry another (facts K.3.3).
    pub vmid: Vmid,
    /// Set by the creating call, taken off when the guest is configured: it was never started, and what a clone
    /// copied may still be on it (promise 3).
    pub fresh: bool,
    /// The guest existed before and was adopted: deleting the object keeps it unless the spec says otherwise.
    pub adopted: bool,
    /// Template revision that the guest was cloned from, or that a template was built as.
    pub revision: Option<String>,
    /// Of a template: revision of the template that it was cloned from itself.
    pub parent: Option<String>,
    /// Volume id of the image that Phoenix made the guest of.
    pub image: Option<String>,
    /// Namespace and name of the template that Phoenix cloned the guest from, as `namespace/name`.
    pub template: Option<String>,
    /// Digest of the SSH keys that Proxmox put into a container when Phoenix made it.
    pub keys: Option<String>,
    /// Of a machine: what cloud-init got for its first boot, as `packages:DIGEST,userData:none,…`.
    pub boot: Option<String>,
}

impl Stamp {
    /// Whether both name the same object and vmid in the same management cluster; uid and state are not compared.
    pub fn same_identity(&self, other: &Stamp) -> bool {
        self.cluster == other.cluster && self.same_object(other)
    }

    /// As [`Stamp::same_identity`], whatever the management cluster.
    pub fn same_object(&self, other: &Stamp) -> bool {
        self.kind == other.kind
            && self.namespace == other.namespace
            && self.name == other.name
            && self.vmid == other.vmid
    }

    /// Finds the stamp in a description; `None` where there is none or it does not parse.
    pub fn find(description: &str) -> Option<Stamp> {
        let line = description
            .lines()
            .rev()
            .find_map(|l| l.trim().strip_prefix(PREFIX)?.strip_suffix(SUFFIX))?;
        let parts: Vec<(&str, &str)> = line.split(' ').filter_map(|part| part.split_once('=')).collect();
        let field = |name: &str| {
            let (_, value) = parts.iter().find(|(field, _)| *field == name)?;
            Some((*value).to_string())
        };
        Some(Stamp {
            cluster: field("cluster")?,
            kind: field("kind")?,
            namespace: field("namespace")?,
            name: field("name")?,
            uid: field("uid")?,
            vmid: field("vmid")?.parse().ok()?,
            fresh: field("state").as_deref() == Some("fresh"),
            adopted: field("origin").as_deref() == Some("adopted"),
            revision: field("revision"),
            parent: field("parent"),
            image: field("image"),
            template: field("template"),
            keys: field("keys"),
            boot: field("boot"),
        })
    }

    /// Every stamp in a description, from first to last; `None` for a line that begins as one and cannot be read.
    pub fn all(description: &str) -> Vec<Option<Stamp>> {
        let lines = description.lines().filter(|l| l.trim().starts_with(PREFIX));
        lines.map(Stamp::find).collect()
    }

    /// A description of the user's words and the stamp, which nobody's words can forge.
    pub fn describe(&self, words: &str) -> String {
        match Stamp::strip(words).as_str() {
            "" => format!("{self}\n"),
            words => format!("{words}\n\n{self}\n"),
        }
    }

    /// The description without any stamp, its lines without what Proxmox and editors do not keep: line ends of other
    /// systems and blanks before them.
    pub fn strip(description: &str) -> String {
        let kept: Vec<&str> = description
            .lines()
            .filter(|l| !l.trim().starts_with(PREFIX))
            .map(str::trim_end)
            .collect();
        kept.join("\n").trim().to_string()
    }

    /// Whether a line of the text would be taken for a stamp.
    pub fn is_forged_in(words: &str) -> bool {
        words.lines().any(|l| l.trim().starts_with(PREFIX.trim_end()))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PREFIX}cluster={} kind={} namespace={} name={} uid={} vmid={}",
            self.cluster, self.kind, self.namespace, self.name, self.uid, self.vmid
        )?;
        if let Some(revision) = &self.revision {
            write!(f, " revision={revision}")?;
        }
        if let Some(parent) = &self.parent {
            write!(f, " parent={parent}")?;
        }
        if let Some(image) = &self.image {
            write!(f, " image={image}")?;
        }
        if let Some(template) = &self.template {
            write!(f, " template={template}")?;
        }
        if let Some(keys) = &self.keys {
            write!(f, " keys={keys}")?;
        }
        if let Some(boot) = &self.boot {
            write!(f, " boot={boot}")?;
        }
        if self.adopted {
            write!(f, " origin=adopted")?;
        }
        if self.fresh {
            write!(f, " state=fresh")?;
        }
        write!(f, "{SUFFIX}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            cluster: "c1".into(),
            kind: "PhoenixLXC".into(),
            namespace: "ai".into(),
            name: "qwen".into(),
            uid: "u1".into(),
            vmid: Vmid::nearest(950),
            fresh: true,
            adopted: false,
            revision: Some("abc".into()),
            parent: Some("def".into()),
            image: Some("local:vztmpl/debian.tar.zst".into()),
            template: Some("ai/base".into()),
            keys: Some("0123456789ab".into()),
            boot: Some("packages:0123456789ab,userData:none".into()),
        }
    }

    #[test]
    fn is_found_again_behind_words_and_after_edits() {
        let text = stamp().describe("My model.\nDo not touch.");
        assert_eq!(Stamp::find(&text), Some(stamp()));
        assert_eq!(Stamp::find(&format!("{text}\nwritten below by hand")), Some(stamp()));
        assert_eq!(Stamp::strip(&text), "My model.\nDo not touch.");
        assert_eq!(Stamp::find("no stamp"), None);
        let forged = Stamp {
            kind: "VolumeOwner".into(),
            ..stamp()
        };
        let text = stamp().describe(&format!("Mine.\n{forged}"));
        assert_eq!(text, stamp().describe("Mine."));
    }

    #[test]
    fn all_of_them_are_seen_and_damaged_ones_too() {
        let damaged = stamp().to_string().replace("vmid=950", "vmid=x");
        let text = format!("words\n{}\n  {damaged}\n{} and more\n{}", stamp(), stamp(), stamp());
        let (whole, none) = (Some(stamp()), None);
        assert_eq!(Stamp::all(&text), [whole.clone(), none.clone(), none, whole]);
    }

    #[test]
    fn a_copy_under_another_vmid_is_not_the_same() {
        let copy = Stamp {
            vmid: Vmid::nearest(951),
            ..stamp()
        };
        assert!(!copy.same_identity(&stamp()));
        assert!(
            Stamp {
                uid: "u2".into(),
                fresh: false,
                ..stamp()
            }
            .same_identity(&stamp())
        );
        assert!(
            !Stamp {
                cluster: "c2".into(),
                ..stamp()
            }
            .same_identity(&stamp())
        );
    }
}
