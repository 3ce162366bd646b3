//! What the CUDA proof in a container says: whether its GPUs work, and whether its driver fits the node's module.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::GivenGpu;
use crate::desired::scripts::proof::ID;
use crate::desired::{Script, ScriptRole};
use crate::observed::ScriptRecord;
use crate::reason::{Cause, Reason};

use super::planner::{Planner, Staged};
use super::{Next, Stage};

/// Seconds after which a GPU that does not work is looked at again; a look at the node's cards wakes the object before.
const AGAIN: u64 = 60;
/// Id of the feature that installs NVIDIA's driver.
const DRIVER: &str = "feature-nvidia";
/// Its parameter `driver-version`, as its script gets it.
const VERSION: &str = "PHOENIX_DRIVER_VERSION";

/// The last line of the proof, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Verdict {
    words: BTreeMap<String, String>,
}

impl Verdict {
    fn read(output: &str) -> Option<Verdict> {
        let line = output
            .lines()
            .rev()
            .find_map(|line| line.trim().strip_prefix("CUDA "))?;
        let words = line.split_whitespace().filter_map(|word| word.split_once('='));
        let words = words.filter(|(_, value)| !value.is_empty());
        Some(Verdict {
            words: words.map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        })
    }

    fn get(&self, key: &str) -> &str {
        self.words.get(key).map_or("", String::as_str)
    }

    fn outcome(&self) -> &str {
        self.get("outcome")
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.get(key).parse().ok()
    }

    /// Which of the cards that the container was given CUDA does not see, as the spec names them.
    fn missing(&self, given: &[GivenGpu]) -> String {
        let seen: BTreeSet<&str> = self.get("at").split(';').filter(|at| !at.is_empty()).collect();
        let missing = given.iter().filter(|card| !seen.contains(card.pci_address.as_str()));
        let names: Vec<String> = missing.map(|c| format!("{} ({})", c.selector, c.pci_address)).collect();
        match seen.is_empty() || names.is_empty() {
            true => String::new(),
            false => format!(", and not {}", names.join(", ")),
        }
    }

    /// What it means: whether the GPUs work, and why, where the container was given so many, or these.
    fn cause(&self, wanted: usize, given: &[GivenGpu]) -> (Option<bool>, Cause) {
        let (userspace, module) = (self.get("userspace"), self.get("module"));
        let wrong = |message: String| (Some(false), Cause::new(Reason::CUDAFailed, message));
        match self.outcome() {
            "ok" => {
                let count = self.number("count").unwrap_or_default();
                let names: BTreeSet<String> = self.get("names").split(';').map(|n| n.replace('_', " ")).collect();
                let names = names.into_iter().collect::<Vec<_>>().join(", ");
                let smi = match self.get("smi") {
                    "" => "nvidia-smi does not answer".to_string(),
                    smi if smi == userspace => "nvidia-smi agrees".to_string(),
                    smi => format!("nvidia-smi says driver {smi}"),
                };
                if usize::try_from(count).unwrap_or_default() < wanted {
                    return wrong(format!(
                        "CUDA sees {count} of {wanted} GPUs in the container ({names}){}: a restart brings device nodes that were added while it ran",
                        self.missing(given)
                    ));
                }
                let copied = self.number("copied").unwrap_or_default();
                if copied < count {
                    let message = format!(
                        "CUDA's driver answers for {count} GPUs ({names}); the memory of {} was full, so that nothing could be copied to them: the next start of the container tries it again",
                        count - copied
                    );
                    return (None, Cause::new(Reason::NotProven, message));
                }
                let message = format!("CUDA works on {count} GPUs ({names}), driver {userspace}; {smi}");
                (Some(true), Cause::new(Reason::Proven, message))
            }
            "no-driver" => {
                let message = format!(
                    "the device nodes are configured; there is no NVIDIA driver in the container (no libcuda.so.1): the feature nvidia installs it{}",
                    if module.is_empty() {
                        String::new()
                    } else {
                        format!(" in the node's version, {module}")
                    }
                );
                (None, Cause::new(Reason::NoDriverInGuest, message))
            }
            "no-python" => {
                let message = "the device nodes are configured, and there is a driver; whether CUDA works is tried with Python, which the container lacks: the feature base-setup brings it";
                (None, Cause::new(Reason::NotProven, message))
            }
            "mismatch" => {
                let message = format!(
                    "the container's NVIDIA driver is {userspace}, and the node's kernel module is {module}: CUDA works only where both are the same. The feature nvidia installs {module} when it runs again: driverPolicy: Heal of the PhoenixHypervisor does that, without a parameter driver-version that says otherwise"
                );
                (Some(false), Cause::new(Reason::DriverMismatch, message))
            }
            "error" => {
                let (call, name) = (self.get("call"), self.get("name"));
                let code = self.number("code").unwrap_or_default();
                wrong(format!("{call} fails with {code} ({name}): {}", remedy(code)))
            }
            "copy-differs" => wrong(format!(
                "what was copied to GPU {} and back is not the same: the card is broken, or its memory",
                self.get("device")
            )),
            "hangs" => {
                wrong("the CUDA program did not end in time: see journalctl -k on the node for Xid errors".to_string())
            }
            other => wrong(format!("the CUDA program ended without a verdict ({other})")),
        }
    }
}

/// The version that the driver's feature is told to install; `None`: that of the node's module.
fn pinned(feature: &Script) -> Option<&str> {
    let version = feature.environment.get(VERSION)?;
    Some(version.as_str()).filter(|version| !version.is_empty())
}

/// What helps against an error of CUDA's driver (`CUresult` of cuda.h).
fn remedy(code: i64) -> &'static str {
    match code {
        3 => "the driver is shutting down: restart the container",
        100 => {
            "the container's device nodes are none of a GPU that works: see phoenix gpus, and nvidia-smi on the node"
        }
        101 => {
            "the GPU is in use in another mode (compute mode exclusive, MIG): see nvidia-smi -q -d COMPUTE on the node"
        }
        802 => "the node's fabric manager does not run (NVSwitch): systemctl status nvidia-fabricmanager",
        803 | 804 => "driver and module do not fit: install the node's version in the container",
        999 => {
            "/dev/nvidia-uvm is missing on the node or not writable in the container: nvidia-modprobe -u -c=0 on the node, then restart the container"
        }
        _ => "see journalctl -k on the node",
    }
}

impl Planner<'_> {
    /// Whether the container's GPUs are proven to work, or not, by a CUDA program in it.
    pub(crate) fn is_to_be_proven(&self) -> bool {
        self.desired.runs(&[ScriptRole::Proof])
    }

    /// What a verdict means for the cards that the container was given.
    fn means(&self, verdict: &Verdict) -> (Option<bool>, Cause) {
        let given = self.facts.gpu_devices.as_ref().or(self.status.gpu_devices.as_ref());
        let asked = self.desired.lxc().and_then(|lxc| lxc.gpus.as_ref()).map_or(0, Vec::len);
        let wanted = given.map_or(asked, Vec::len);
        let (holds, mut cause) = verdict.cause(wanted, given.map(Vec::as_slice).unwrap_or_default());
        if cause.reason == Reason::DriverMismatch {
            cause.message.push_str(&self.to_change_first(verdict.get("module")));
        }
        (holds, cause)
    }

    /// What keeps the feature from installing the node's version, and has to change in Git.
    fn to_change_first(&self, module: &str) -> String {
        match self.desired.scripts.iter().find(|script| script.id == DRIVER) {
            None => format!(
                "; {}.features has no nvidia here, the driver came with the template or by hand: add it first, and build the template anew for later clones",
                self.prefix()
            ),
            Some(feature) => match pinned(feature).filter(|version| *version != module) {
                Some(version) => format!(
                    "; the parameter driver-version of the feature nvidia is {version}: set {module}, or leave it out"
                ),
                None => String::new(),
            },
        }
    }

    /// What a proof that failed says.
    pub(super) fn unproven(&self, record: Option<&ScriptRecord>) -> Cause {
        let output = record.map(|record| record.output.as_str()).unwrap_or_default();
        let verdict = Verdict::read(output).unwrap_or_default();
        self.means(&verdict).1
    }

    /// What the proof of this start says, as the condition. What it said is kept in status: the record is read in full once.
    pub(super) fn proven(&mut self, records: &BTreeMap<String, ScriptRecord>) {
        let Some(record) = records.get(ID).filter(|_| self.is_to_be_proven()) else {
            return;
        };
        let said = Some(record.output.trim()).filter(|text| !text.is_empty());
        let line = said.and_then(|text| text.lines().last()).map(String::from);
        let line = line.or_else(|| self.status.gpu_proof.clone());
        let Some(verdict) = line.as_deref().and_then(Verdict::read) else {
            return;
        };
        self.facts.gpu_proof = line;
        // What is wrong with the card itself comes first.
        if self.gpus_fail().is_some() {
            return;
        }
        let (holds, cause) = self.means(&verdict);
        match holds {
            Some(holds) => self.condition(Stage::GPUReady.as_str(), holds, cause.reason, cause.message),
            None => self.unknown(Stage::GPUReady, cause.reason, cause.message),
        }
    }

    /// What is wrong with the GPUs, as far as it was found.
    pub(crate) fn gpus_fail(&self) -> Option<&Cause> {
        let mut found = self.findings.iter().rev();
        let last = found.find(|f| f.condition == Stage::GPUReady.as_str())?;
        (last.holds == Some(false)).then_some(&last.cause)
    }

    /// A guest whose GPU does not work is not Ready, whatever else works in it.
    pub(super) fn gpus_work(&self) -> Staged {
        match self.gpus_fail().cloned() {
            Some(cause) => Err(Next::Wait { cause, seconds: AGAIN }),
            None => Ok(()),
        }
    }

    /// Whether the driver's feature runs again, as its node's module has another version by now.
    pub(super) fn heals(&self, script: &Script, records: &BTreeMap<String, ScriptRecord>) -> bool {
        let (Some(proof), Some(own)) = (records.get(ID), records.get(&script.id)) else {
            return false;
        };
        // Where Git names another version than the node's, the feature refuses: it would only fail once more.
        let fits = |verdict: &Verdict| pinned(script).is_none_or(|version| version == verdict.get("module"));
        let mismatch = Verdict::read(&proof.output).is_some_and(|v| v.outcome() == "mismatch" && fits(&v));
        let now = proof.this_start == Some(true) && proof.exit_code.is_some_and(|code| code != 0);
        // In this start it ran already: once more would install the same.
        let earlier = own.exit_code == Some(0) && own.this_start != Some(true);
        self.desired.cards.heals_drivers && script.id == DRIVER && mismatch && now && earlier
    }

    /// Whether the proof runs again at once: the driver was installed since it failed.
    pub(super) fn is_proven_anew(&self, script: &Script, records: &BTreeMap<String, ScriptRecord>) -> bool {
        let (Some(proof), Some(driver)) = (records.get(ID), records.get(DRIVER)) else {
            return false;
        };
        let failed = proof.exit_code.is_some_and(|code| code != 0);
        // Guests' clocks tell seconds: within one, the first proof counts as the earlier one.
        let since = driver.ended_at > proof.started_at || driver.ended_at == proof.started_at && proof.tries <= 1;
        script.id == ID && failed && driver.exit_code == Some(0) && driver.this_start == Some(true) && since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str, wanted: usize) -> (Option<bool>, Reason, String) {
        let (holds, cause) = Verdict::read(line).unwrap().cause(wanted, &[]);
        (holds, cause.reason, cause.message)
    }

    #[test]
    fn cards_that_cuda_does_not_see_are_told_as_the_spec_names_them() {
        let card = |selector: &str, address: &str| GivenGpu {
            selector: selector.into(),
            pci_address: address.into(),
            ..GivenGpu::default()
        };
        let given = [card("index=0", "0000:41:00.0"), card("count#0 model=A", "0000:61:00.0")];
        let words = |line: &str| Verdict::read(line).unwrap().cause(2, &given).1.message;
        let told = words("CUDA outcome=ok count=1 copied=1 names=A at=0000:41:00.0 userspace=1.2");
        let wanted =
            "CUDA sees 1 of 2 GPUs in the container (A), and not count#0 model=A (0000:61:00.0): a restart brings";
        assert!(told.starts_with(wanted), "{told}");
        // An earlier proof does not say where it saw them.
        let told = words("CUDA outcome=ok count=1 copied=1 names=A userspace=1.2");
        assert!(
            told.starts_with("CUDA sees 1 of 2 GPUs in the container (A): a restart"),
            "{told}"
        );
    }

    #[test]
    fn a_verdict_says_whether_gpus_work_and_what_helps() {
        let ok = "noise\nCUDA outcome=ok count=2 copied=2 cuda=12080 names=NVIDIA_A;NVIDIA_A userspace=580.76.05 module=580.76.05 smi=580.76.05";
        let words = "CUDA works on 2 GPUs (NVIDIA A), driver 580.76.05; nvidia-smi agrees".to_string();
        assert_eq!(told(ok, 2), (Some(true), Reason::Proven, words));
        let (holds, reason, words) = told(ok, 3);
        assert_eq!((holds, reason), (Some(false), Reason::CUDAFailed));
        assert!(words.contains("CUDA sees 2 of 3"), "{words}");
        for (line, holds, reason, part) in [
            (
                "CUDA outcome=ok count=2 copied=1 names=A;A userspace=1.2 module=1.2",
                None,
                Reason::NotProven,
                "the memory of 1 was full",
            ),
            (
                "CUDA outcome=no-driver module=1.2",
                None,
                Reason::NoDriverInGuest,
                "the node's version, 1.2",
            ),
            (
                "CUDA outcome=no-python userspace=1.2 module=1.2",
                None,
                Reason::NotProven,
                "base-setup",
            ),
            (
                "CUDA outcome=mismatch userspace=1.2 module=1.3",
                Some(false),
                Reason::DriverMismatch,
                "driver is 1.2, and the node's kernel module is 1.3",
            ),
            (
                "CUDA outcome=error call=cuInit code=999 name=CUDA_ERROR_UNKNOWN",
                Some(false),
                Reason::CUDAFailed,
                "cuInit fails with 999 (CUDA_ERROR_UNKNOWN): /dev/nvidia-uvm is missing",
            ),
            (
                "CUDA outcome=hangs",
                Some(false),
                Reason::CUDAFailed,
                "did not end in time",
            ),
            (
                "CUDA outcome=crashed code=139",
                Some(false),
                Reason::CUDAFailed,
                "without a verdict (crashed)",
            ),
            (
                "CUDA outcome=copy-differs device=1",
                Some(false),
                Reason::CUDAFailed,
                "GPU 1",
            ),
        ] {
            let found = told(line, 1);
            assert_eq!((found.0, found.1), (holds, reason), "{line}");
            assert!(found.2.contains(part), "{line}: {}", found.2);
        }
        assert_eq!(Verdict::read("no such line"), None);
    }
}
