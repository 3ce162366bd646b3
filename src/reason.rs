//! Why an object is as it is: one word that programs compare, and a sentence for people.

use std::fmt;

/// Defines [`Reason`] with its words.
macro_rules! reasons {
    ($($name:ident)*) => {
        /// A reason, as conditions and events carry it. docs/reasons.md says of each what it means and what to do.
        #[allow(missing_docs, reason = "docs/reasons.md says it")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// As conditions and events carry it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$name => stringify!($name),)*
                }
            }
        }
    };
}

reasons! {
    AddressInUse
    AdoptNotFound
    Ambiguous
    ConfigMapNotFound
    Conflict
    CreateInterrupted
    DependencyCycle
    DeviceMissing
    DoubleVolume
    FeatureCycle
    FeatureNotFound
    FirewallNotInForce
    CUDAFailed
    DriverMismatch
    GPUConflict
    GPUNotFound
    GPUOvercommitted
    HypervisorNotFound
    ImageNotFound
    InvalidSpec
    LeftoverVolumes
    MissingPrivilege
    NoFreeVmid
    NoVmidRange
    NoVolumeOwners
    NodeNotFound
    NotAllowed
    NotYetSupported
    ProxmoxRefused
    Protected
    ScriptCancelled
    ScriptFailed
    ScriptInterrupted
    SecretNotFound
    ShrinkRefused
    SourceMissing
    StorageNotFound
    StorageContentMissing
    StorageDisabled
    HostKeyMissing
    TemplateNotFound
    TooManyVolumes
    UnaccountedVolumes
    VolumeElsewhere
    VolumeHeld
    VolumeMapping
    VolumeMissing
    WrongCluster
    AddressPending
    AgentNotReady
    AgentSilent
    BackOff
    CloudInitRunning
    CreateRunning
    DependencyNotFound
    DependencyNotReady
    GPUBusyStarting
    GPUFault
    GPUNodesMissing
    GPUReordered
    ModelMayNotFit
    GPUsNotRead
    NoDriverInGuest
    NotProven
    GuestLocked
    GuestUnreachable
    GuestUnreadable
    HypervisorNotReady
    HypervisorUnreachable
    KindNotRead
    ModelLoading
    ModelServerFailed
    NoQuorum
    NodeOffline
    ProbeFailed
    RestartBackOff
    ScriptRunning
    Starting
    StorageUnavailable
    TemplateBusy
    TemplateInUse
    TemplateNotReady
    VolumeInUse
    InternalError
    AlreadyExists
    CertificateNotTrusted
    ChecksumMismatch
    CommandFailed
    ConfigChanged
    GuestDiskFull
    HostKeyMismatch
    ImageDownloading
    NotDecodable
    NothingChanged
    NotFound
    OutcomeUnknown
    RawLineNotRead
    SSHAuthFailed
    SSHConnectionLost
    SSHKeyInvalid
    SSHUnreachable
    StorageError
    StorageFull
    TaskFailed
    TaskLimit
    Unauthorized
    VolumeExists
    ChangedOutsidePhoenix
    Paused
    PendingChanges
    CreationOnly
    ScriptChanged
    NewerRevision
    InUse
    NotInIndex
    GuestOwnsVolume
    KeptByGuest
    KeptByOwner
    GrownOutsidePhoenix
    TestFailed
    Ready
    AsWanted
    InProgress
    Deleting
    Recreating
    Released
    Accepted
    Healthy
    Proven
    Stopped
    Adopted
    Created
    Configured
    DriftCorrected
    VolumesChanged
    GrownVolume
    Started
    Restarted
    SnapshotTaken
    Converted
    Destroyed
    ImageDownloaded
    PrivilegesGranted
    ScriptSucceeded
    Exposed
    ExposeDisabled
    ServiceNotOurs
    ServiceRefused
}

impl Reason {
    /// The reason of a condition that was read back.
    pub fn named(word: &str) -> Option<Reason> {
        Reason::ALL.iter().find(|reason| reason.as_str() == word).copied()
    }

    /// Whether it is nobody's fault and passes by itself within seconds: what met it is tried again soon, without counting.
    pub fn passes_soon(self) -> bool {
        matches!(self, Reason::GuestLocked | Reason::ConfigChanged)
    }

    /// Whether another object has to come first.
    pub fn waits_for_another(self) -> bool {
        matches!(
            self,
            Reason::DependencyNotReady | Reason::DependencyNotFound | Reason::TemplateNotReady
        )
    }

    /// Whether an object that is named does not exist: it may yet be created, as when a folder is applied in any order.
    pub fn may_be_created(self) -> bool {
        matches!(
            self,
            Reason::ConfigMapNotFound
                | Reason::FeatureNotFound
                | Reason::HypervisorNotFound
                | Reason::SecretNotFound
                | Reason::TemplateNotFound
        )
    }

    /// Whether nothing is known of a guest, because the hypervisor was not reached or its node is away.
    pub fn hides_the_guest(self) -> bool {
        matches!(
            self,
            Reason::HypervisorUnreachable | Reason::HypervisorNotReady | Reason::NodeOffline
        )
    }

    /// Whether a hypervisor stays unusable until somebody changes something.
    pub fn stops_the_hypervisor(self) -> bool {
        matches!(
            self,
            Reason::SecretNotFound
                | Reason::InvalidSpec
                | Reason::Unauthorized
                | Reason::CertificateNotTrusted
                | Reason::NotYetSupported
                | Reason::SSHKeyInvalid
                | Reason::MissingPrivilege
                | Reason::NodeNotFound
                | Reason::StorageNotFound
                | Reason::StorageContentMissing
                | Reason::StorageDisabled
                | Reason::HostKeyMissing
                | Reason::ImageNotFound
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> String {
        reason.as_str().to_string()
    }
}

/// A reason with a sentence that names object, field, value and fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The reason.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

impl Cause {
    /// A cause.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let message = message.into();
        Cause { reason, message }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}
