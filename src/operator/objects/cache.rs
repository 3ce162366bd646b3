//! A cache of objects that never goes back in time.
//!
//! What Phoenix writes is put in at once, under the version that the API server answered; the watch delivers the same
//! and older versions later, and those are left out. So nothing is ever planned from a status older than the one
//! that was written last (promise 1).

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Objects by key, each with the version it was seen at.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    live: BTreeMap<K, Entry<V>>,
    /// Keys whose object went by a write of ours, with its last version: the watch may still deliver older states.
    gone: BTreeMap<K, (String, Mark)>,
    /// Counts what was put in or taken out.
    changes: Mark,
}

/// A moment in the life of a cache.
pub(super) type Mark = u64;

#[derive(Debug)]
struct Entry<V> {
    version: String,
    value: V,
    /// When it was put in.
    at: Mark,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Cache {
            live: BTreeMap::new(),
            gone: BTreeMap::new(),
            changes: 0,
        }
    }
}

/// What became of an object that was put in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Applied<V> {
    /// It was not newer than what is there.
    Stale,
    /// It is in; this was there before.
    Stored(Option<V>),
}

impl<K: Ord + Clone, V> Cache<K, V> {
    /// The object under a key.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.live.get(key).map(|entry| &entry.value)
    }

    /// All objects in the order of their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.live.iter().map(|(key, entry)| (key, &entry.value))
    }

    /// Now.
    pub(super) fn mark(&self) -> Mark {
        self.changes
    }

    /// Makes room for an object that a listing shows at this version, which began at `since`: what is known from before
    /// then counts no more, whatever its version. Whether that was newer: then versions went back.
    pub(super) fn heed_listing(&mut self, key: &K, version: &str, since: Mark) -> bool {
        let mut back = false;
        if let Some(entry) = self.live.get_mut(key)
            && entry.at <= since
            && newer(&entry.version, version)
        {
            entry.version = "0".into();
            back = true;
        }
        if self.gone.get(key).is_some_and(|(_, at)| *at <= since) {
            self.gone.remove(key);
        }
        back
    }

    /// Whether the object is at an older version than the one that a write of ours was made from: then versions went
    /// back meanwhile, and the answer to the write tells of what is no more.
    pub(super) fn went_back(&self, key: &K, base: &str) -> bool {
        self.live.get(key).is_some_and(|entry| newer(base, &entry.version))
    }

    /// Puts an object in, unless it is not newer than the one that is there or that went.
    pub(super) fn apply(&mut self, key: &K, version: &str, value: V) -> Applied<V> {
        let live = self.live.get(key).map(|entry| &entry.version);
        let known = live.or_else(|| self.gone.get(key).map(|(v, _)| v));
        if known.is_some_and(|known| !newer(version, known)) {
            return Applied::Stale;
        }
        self.gone.remove(key);
        self.changes += 1;
        let entry = Entry {
            version: version.to_string(),
            value,
            at: self.changes,
        };
        Applied::Stored(self.live.insert(key.clone(), entry).map(|old| old.value))
    }

    /// Takes an object out whose end the watch delivered, unless a newer one has taken its place.
    pub(super) fn remove(&mut self, key: &K, version: &str) -> Option<V> {
        self.gone.remove(key);
        if self.live.get(key).is_some_and(|entry| newer(&entry.version, version)) {
            return None;
        }
        self.live.remove(key).map(|entry| entry.value)
    }

    /// Takes an object out that went by a write of ours, whose last state had this version.
    pub(super) fn bury(&mut self, key: &K, version: &str) -> Option<V> {
        let last = match self.live.get(key) {
            Some(entry) if newer(&entry.version, version) => entry.version.clone(),
            _ => version.to_string(),
        };
        self.changes += 1;
        self.gone.insert(key.clone(), (last, self.changes));
        self.live.remove(key).map(|entry| entry.value)
    }

    /// Takes out what a complete listing of a part of the keys no longer has.
    pub(super) fn retain_listed(&mut self, in_scope: impl Fn(&K) -> bool, listed: impl Fn(&K) -> bool) -> Vec<(K, V)> {
        self.gone.retain(|key, _| !in_scope(key) || listed(key));
        let missing: Vec<K> = self
            .live
            .keys()
            .filter(|key| in_scope(key) && !listed(key))
            .cloned()
            .collect();
        missing
            .into_iter()
            .filter_map(|key| self.live.remove(&key).map(|entry| (key, entry.value)))
            .collect()
    }
}

/// Whether version `a` came after `b`. Resource versions are decimal numbers that grow; of versions of another form
/// any different one counts as newer, and a write based on a wrong guess is refused by the API server.
pub(super) fn newer(a: &str, b: &str) -> bool {
    match (decimal(a), decimal(b)) {
        (Some(a), Some(b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)) == Ordering::Greater,
        _ => a != b,
    }
}

fn decimal(version: &str) -> Option<&str> {
    (!version.is_empty() && version.bytes().all(|b| b.is_ascii_digit())).then(|| version.trim_start_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(newer("10", "9"));
        assert!(!newer("9", "10"));
        assert!(!newer("10", "10"));
        assert!(newer("18446744073709551616", "18446744073709551615"));
        assert!(newer("abc", "abd") && newer("abd", "abc") && !newer("abc", "abc"));
    }

    #[test]
    fn an_older_state_from_the_watch_does_not_replace_what_was_written() {
        let mut cache = Cache::default();
        assert_eq!(cache.apply(&"a", "5", "seen"), Applied::Stored(None));
        assert_eq!(cache.apply(&"a", "7", "written"), Applied::Stored(Some("seen")));
        assert_eq!(cache.apply(&"a", "6", "late"), Applied::Stale);
        assert_eq!(cache.apply(&"a", "7", "echo"), Applied::Stale);
        assert_eq!(cache.get(&"a"), Some(&"written"));
    }

    #[test]
    fn an_object_that_went_by_our_write_does_not_come_back_from_the_watch() {
        let mut cache = Cache::default();
        cache.apply(&"a", "5", "last");
        assert_eq!(cache.bury(&"a", "5"), Some("last"));
        assert_eq!(cache.apply(&"a", "5", "late"), Applied::Stale);
        assert_eq!(cache.apply(&"a", "9", "made anew"), Applied::Stored(None));
        // The end of the former object arrives after the beginning of the new one.
        assert_eq!(cache.remove(&"a", "6"), None);
        assert_eq!(cache.get(&"a"), Some(&"made anew"));
    }

    /// As when the datastore of the API server is restored from a backup.
    #[test]
    fn a_listing_with_lower_versions_is_how_things_are() {
        let mut cache = Cache::default();
        cache.apply(&"a", "9000", "running");
        cache.apply(&"b", "9001", "gone");
        cache.bury(&"b", "9001");
        let began = cache.mark();
        for (key, version, value) in [("a", "7000", "as in the backup"), ("b", "7001", "back again")] {
            cache.heed_listing(&key, version, began);
            assert!(matches!(cache.apply(&key, version, value), Applied::Stored(_)));
        }
        // A write of before then is answered late, and an edit of after it is seen.
        assert!(cache.went_back(&"a", "9000") && !cache.went_back(&"a", "7000"));
        assert!(matches!(cache.apply(&"a", "7050", "stopped"), Applied::Stored(_)));
        assert_eq!(
            (cache.get(&"a"), cache.get(&"b")),
            (Some(&"stopped"), Some(&"back again"))
        );
    }

    #[test]
    fn a_listing_does_not_take_back_what_was_written_while_it_was_made() {
        let mut cache = Cache::default();
        cache.apply(&"a", "5", "seen");
        let began = cache.mark();
        cache.apply(&"a", "7", "written");
        cache.heed_listing(&"a", "5", began);
        assert_eq!(cache.apply(&"a", "5", "listed"), Applied::Stale);
        cache.apply(&"b", "8", "written");
        cache.bury(&"b", "8");
        cache.heed_listing(&"b", "8", began);
        assert_eq!(cache.apply(&"b", "8", "listed"), Applied::Stale);
        assert_eq!(cache.get(&"a"), Some(&"written"));
    }

    #[test]
    fn a_listing_takes_out_only_what_it_covers() {
        let mut cache = Cache::default();
        for (key, version) in [(1, "1"), (2, "2"), (10, "3")] {
            cache.apply(&key, version, ());
        }
        let gone = cache.retain_listed(|key| *key < 10, |key| *key == 1);
        assert_eq!(gone, vec![(2, ())]);
        assert_eq!(cache.iter().map(|(k, _)| *k).collect::<Vec<_>>(), vec![1, 10]);
    }

    proptest! {
        /// Whatever order states arrive in, the cache holds the newest of them.
        #[test]
        fn the_newest_state_wins(versions in proptest::collection::vec(1u32..1000, 1..20)) {
            let mut cache = Cache::default();
            for version in &versions {
                cache.apply(&(), &version.to_string(), *version);
            }
            prop_assert_eq!(cache.get(&()), versions.iter().max());
        }
    }
}
