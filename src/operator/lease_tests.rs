//! The election against a Lease in memory, on a clock of the tests' own.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use super::*;

#[derive(Default)]
struct Shared {
    lease: Option<Lease>,
    version: u64,
    /// The store answers with errors.
    down: bool,
    /// The next write takes effect, and its answer is lost.
    loses_answer: bool,
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Shared>>);

impl Memory {
    fn reachable(&self) -> Result<(), StoreError> {
        match self.0.lock().unwrap().down {
            true => Err(StoreError::Other("connection refused".into())),
            false => Ok(()),
        }
    }

    fn write(&self, lease: &Lease) -> Result<Lease, StoreError> {
        let mut shared = self.0.lock().unwrap();
        shared.version += 1;
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(shared.version.to_string());
        shared.lease = Some(lease.clone());
        if std::mem::take(&mut shared.loses_answer) {
            return Err(StoreError::Other("connection reset".into()));
        }
        Ok(lease)
    }

    fn spec(&self) -> LeaseSpec {
        self.0.lock().unwrap().lease.clone().unwrap().spec.unwrap()
    }

    fn holder(&self) -> String {
        self.spec().holder_identity.unwrap()
    }
}

impl LeaseStore for Memory {
    async fn get(&self) -> Result<Option<Lease>, StoreError> {
        self.reachable()?;
        Ok(self.0.lock().unwrap().lease.clone())
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, StoreError> {
        self.reachable()?;
        if self.0.lock().unwrap().lease.is_some() {
            return Err(StoreError::Conflict);
        }
        self.write(lease)
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, StoreError> {
        self.reachable()?;
        let current = self.0.lock().unwrap().lease.clone();
        let version = current.and_then(|l| l.metadata.resource_version);
        if version != lease.metadata.resource_version {
            return Err(StoreError::Conflict);
        }
        self.write(lease)
    }
}

fn elector(memory: &Memory, identity: &str) -> Elector<Memory> {
    Elector::new(
        memory.clone(),
        identity.into(),
        Timing::default(),
        Arc::new(Timestamp::now),
    )
}

/// The given second of the tests' clock.
fn second(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[tokio::test]
async fn a_dead_holders_lease_is_taken_after_its_duration_and_not_before() {
    let (memory, start) = (Memory::default(), Instant::now());
    assert!(elector(&memory, "first").try_acquire(start).await.unwrap());
    let mut other = elector(&memory, "second");
    for at in (100..115).step_by(2) {
        assert!(!other.try_acquire(second(start, at)).await.unwrap(), "second {at}");
    }
    assert!(other.try_acquire(second(start, 115)).await.unwrap());
    assert_eq!(memory.holder(), "second");
    assert_eq!(memory.spec().lease_transitions, Some(2));
}

#[tokio::test]
async fn a_living_holder_keeps_its_lease() {
    let (memory, start) = (Memory::default(), Instant::now());
    let (mut first, mut other) = (elector(&memory, "first"), elector(&memory, "second"));
    assert!(first.try_acquire(start).await.unwrap());
    for at in (2..600).step_by(2) {
        assert_eq!(first.renew(second(start, at)).await, Ok(()));
        assert!(!other.try_acquire(second(start, at + 1)).await.unwrap());
    }
    assert_eq!(memory.holder(), "first");
    assert_eq!(memory.spec().lease_transitions, Some(1));
}

#[tokio::test]
async fn of_two_that_find_a_free_lease_one_wins() {
    let (memory, start) = (Memory::default(), Instant::now());
    elector(&memory, "dead").try_acquire(start).await.unwrap();
    let (mut first, mut other) = (elector(&memory, "first"), elector(&memory, "second"));
    for candidate in [&mut first, &mut other] {
        assert!(!candidate.try_acquire(start).await.unwrap());
    }
    let stale = memory.0.lock().unwrap().lease.clone().unwrap();
    assert!(first.try_acquire(second(start, 15)).await.unwrap());
    // The other one read the Lease before the first one wrote it.
    let claim = other.claim(stale);
    assert!(matches!(memory.replace(&claim).await, Err(StoreError::Conflict)));
}

#[tokio::test]
async fn a_holder_that_cannot_renew_gives_up_before_another_may_take_over() {
    let (memory, start) = (Memory::default(), Instant::now());
    let mut first = elector(&memory, "first");
    first.try_acquire(start).await.unwrap();
    memory.0.lock().unwrap().down = true;
    assert_eq!(first.renew(second(start, 8)).await, Ok(()));
    assert_eq!(first.renew(second(start, 10)).await, Err(Lost));
    assert!(Timing::default().renew_deadline < Timing::default().duration);
}

#[tokio::test]
async fn a_holder_whose_lease_was_taken_notices() {
    let (memory, start) = (Memory::default(), Instant::now());
    let (mut first, mut other) = (elector(&memory, "first"), elector(&memory, "second"));
    first.try_acquire(start).await.unwrap();
    other.try_acquire(start).await.unwrap();
    assert!(other.try_acquire(second(start, 15)).await.unwrap());
    assert_eq!(first.renew(second(start, 16)).await, Err(Lost));
    assert_eq!(memory.holder(), "second");
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_does_not_end_the_leadership() {
    let (memory, start) = (Memory::default(), Instant::now());
    let mut first = elector(&memory, "first");
    first.try_acquire(start).await.unwrap();
    memory.0.lock().unwrap().loses_answer = true;
    for at in [2, 4, 6, 14] {
        assert_eq!(first.renew(second(start, at)).await, Ok(()), "second {at}");
    }
}

#[tokio::test]
async fn a_lease_given_back_is_free_at_once() {
    let (memory, start) = (Memory::default(), Instant::now());
    let mut first = elector(&memory, "first");
    first.try_acquire(start).await.unwrap();
    first.release().await;
    assert!(elector(&memory, "second").try_acquire(start).await.unwrap());
}

#[tokio::test]
async fn keeping_ends_when_the_lease_is_taken() {
    let memory = Memory::default();
    let mut first = elector(&memory, "first");
    first.acquire().await;
    let mut taken = memory.0.lock().unwrap().lease.clone().unwrap();
    taken.spec.as_mut().unwrap().holder_identity = Some("second".into());
    memory.write(&taken).unwrap();
    first.keep().await;
    assert_eq!(memory.holder(), "second");
}
