//! What cloud-init reads at the first boot of a machine and never again, so that a later change can be told of.

use std::collections::BTreeMap;
use std::fmt;

use crate::crd::VmGuest;
use crate::desired::WantedCloudInit;
use crate::desired::fingerprint::digest;

/// What stands for a field with nothing in it.
const NONE: &str = "none";
/// The fields, by the names that they have in a stamp.
const FIELDS: [(&str, &str); 3] = [
    ("packages", "cloudInit.packages"),
    ("userData", "cloudInit.userData"),
    ("install", "agent.install"),
];

/// What a machine gets for its first boot. Its text is a part of the stamp (`packages:DIGEST,userData:none,…`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstBoot {
    /// Digest by field, whether the spec gives it or not.
    told: BTreeMap<&'static str, String>,
    /// Fields that the spec gives: an omitted one is not compared (promise 3).
    given: Vec<&'static str>,
    /// Storage of the snippet, where the spec gives it.
    pub storage: Option<String>,
}

impl FirstBoot {
    /// What a machine with this spec gets that is made now.
    pub(super) fn of(guest: &VmGuest, init: Option<&WantedCloudInit>) -> Self {
        let vendor = init.and_then(|init| init.vendor.as_ref());
        let packages = vendor.map(|v| &v.packages).filter(|p| !p.is_empty()).map(digest);
        let user_data = vendor.and_then(|v| v.user_data.as_ref()).map(|text| digest([text]));
        let install = vendor.is_some_and(|v| v.agent).then(|| "yes".to_string());
        let spec = guest.cloud_init.as_ref();
        let given = [
            spec.is_some_and(|init| init.packages.is_some()),
            spec.is_some_and(|init| init.user_data.is_some()),
            guest.agent.as_ref().is_some_and(|agent| agent.install.is_some()),
        ];
        let names = FIELDS.iter().map(|(name, _)| *name);
        let or_none = |digest: Option<String>| digest.unwrap_or_else(|| NONE.into());
        FirstBoot {
            told: names.clone().zip([packages, user_data, install].map(or_none)).collect(),
            given: names
                .zip(given)
                .filter(|(_, given)| *given)
                .map(|(name, _)| name)
                .collect(),
            storage: spec.and_then(|init| init.snippet_storage.clone()),
        }
    }

    /// Fields that the spec gives and of which a stamp says something else, each with what the machine was made with.
    /// What a stamp says nothing of is not known.
    pub fn differs(&self, stamp: &str) -> Vec<String> {
        let made: BTreeMap<&str, &str> = stamp.split(',').filter_map(|part| part.split_once(':')).collect();
        let fields = FIELDS.iter().filter(|(name, _)| self.given.contains(name));
        let differs = fields.filter_map(|(name, field)| {
            let have = *made.get(name)?;
            let told = self.told.get(name)?;
            let with = if have == NONE { "without" } else { "with another value" };
            (have != told).then(|| format!("{field}: the first boot was {with}"))
        });
        differs.collect()
    }
}

impl fmt::Display for FirstBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.told.iter().map(|(name, is)| format!("{name}:{is}")).collect();
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{CloudInit, VmAgent};
    use crate::desired::WantedVendor;

    fn made(packages: Option<&[&str]>, install: Option<bool>) -> FirstBoot {
        let packages = packages.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
        let guest = VmGuest {
            cloud_init: Some(CloudInit {
                packages: packages.clone(),
                ..CloudInit::default()
            }),
            agent: install.map(|install| VmAgent {
                install: Some(install),
                ..VmAgent::default()
            }),
            ..VmGuest::default()
        };
        let init = WantedCloudInit {
            vendor: Some(WantedVendor {
                packages: packages.unwrap_or_default(),
                agent: install.unwrap_or(true),
                ..WantedVendor::default()
            }),
            ..WantedCloudInit::default()
        };
        FirstBoot::of(&guest, Some(&init))
    }

    #[test]
    fn what_the_first_boot_did_not_bring_is_told_by_field() {
        let first = made(Some(&["jq"]), None).to_string();
        assert_eq!(made(Some(&["jq"]), Some(true)).differs(&first), [""; 0]);
        assert_eq!(made(None, None).differs(&first), [""; 0], "omitted means unmanaged");
        let told = made(Some(&["jq", "htop"]), Some(false)).differs(&first);
        assert_eq!(
            told,
            [
                "cloudInit.packages: the first boot was with another value",
                "agent.install: the first boot was with another value"
            ]
        );
        let told = made(Some(&["jq"]), None).differs(&made(None, None).to_string());
        assert_eq!(told, ["cloudInit.packages: the first boot was without"]);
        assert_eq!(made(Some(&[]), None).differs(&first).len(), 1, "an empty list is none");
    }

    #[test]
    fn a_stamp_that_says_nothing_of_it_is_no_difference() {
        assert_eq!(made(Some(&["jq"]), Some(true)).differs(""), [""; 0]);
        assert_eq!(made(Some(&["jq"]), None).differs("userData:none"), [""; 0]);
    }
}
