//! Whether what was acknowledged would be there after a power failure.
//!
//! The rules are those of POSIX, and no file system's better habits: content counts once the file was flushed after its
//! last change, a name once its folder was flushed after the name came or went. A file whose flush failed is lost for good,
//! because the kernel takes what it could not write for written: a later flush that succeeds says nothing of it. A folder
//! may be flushed again: it is the file system's own data, and one that could not write that stops for good.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Call, Event};

/// What is expected of which files. Paths are absolute.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// Nothing that is acknowledged rests on these: temporary files, locks.
    pub is_scratch: &'a dyn Fn(&Path) -> bool,
    /// Logs: removed only once all that was written elsewhere is durable.
    pub is_log: &'a dyn Fn(&Path) -> bool,
    /// Files that count once a list of them, the file `current` in their folder or one above, is renamed into its place.
    /// The list is one of them.
    pub is_listed: &'a dyn Fn(&Path) -> bool,
    /// Where names that went may come back, to no effect.
    pub may_return: &'a dyn Fn(&Path) -> bool,
}

/// What a power failure could take back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A file got its name before its content was durable: after a failure it may be there and be empty.
    RenamedBeforeFlushed(PathBuf),
    /// Acknowledged with content that is not durable.
    ContentNotDurable {
        /// What was acknowledged.
        acknowledged: String,
        /// The file.
        path: PathBuf,
    },
    /// Acknowledged with a file whose flush had failed.
    ContentLost {
        /// What was acknowledged.
        acknowledged: String,
        /// The file.
        path: PathBuf,
    },
    /// Acknowledged with a name that may not have come, or not have gone.
    NameNotDurable {
        /// What was acknowledged.
        acknowledged: String,
        /// The name.
        path: PathBuf,
    },
    /// A list got its name before what it lists was durable.
    ListedTooEarly {
        /// The list.
        list: PathBuf,
        /// What was not durable.
        path: PathBuf,
    },
    /// A file was written that still had the name of something acknowledged: after a failure that may hold what is in it now.
    WrittenTooEarly {
        /// The file, by the name that it got since.
        path: PathBuf,
        /// The folder that was not flushed after the file went from it.
        folder: PathBuf,
    },
    /// A log went away while what took its place was not durable.
    LogRemovedTooEarly {
        /// The log.
        log: PathBuf,
        /// What was not durable.
        path: PathBuf,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RenamedBeforeFlushed(path) => write!(f, "{} was renamed before it was flushed", path.display()),
            Self::ContentNotDurable { acknowledged, path } => {
                write!(f, "{acknowledged} was acknowledged before {} was flushed", path.display())
            }
            Self::ContentLost { acknowledged, path } => {
                write!(f, "{acknowledged} was acknowledged although a flush of {} had failed", path.display())
            }
            Self::NameNotDurable { acknowledged, path } => {
                write!(f, "{acknowledged} was acknowledged before the folder of {} was flushed", path.display())
            }
            Self::ListedTooEarly { list, path } => {
                write!(f, "{} was renamed into its place while {} was not durable", list.display(), path.display())
            }
            Self::WrittenTooEarly { path, folder } => {
                write!(f, "{} was written before {} was flushed, from which it went", path.display(), folder.display())
            }
            Self::LogRemovedTooEarly { log, path } => {
                write!(f, "{} was removed while {} was not durable", log.display(), path.display())
            }
        }
    }
}

/// Judges what happened, in order. The first thing that is wrong is returned.
pub fn check(events: &[Event], rules: Rules<'_>) -> Result<(), Violation> {
    let mut disk = Disk {
        files: BTreeMap::new(),
        names: BTreeMap::new(),
        exchanged: BTreeMap::new(),
        flushed: None,
        kept: BTreeSet::new(),
        rules,
    };
    events.iter().try_for_each(|event| match event {
        Event::Did(call) => disk.did(call),
        // What a flush reports as failed has failed, whatever it did.
        Event::FailedAfter(call @ (Call::Sync(_) | Call::SyncFolder(_) | Call::SyncAll)) | Event::Failed(call) => {
            disk.failed(call);
            Ok(())
        }
        Event::FailedAfter(call) => disk.did(call),
        Event::Began => {
            disk.flushed = Some(BTreeSet::new());
            Ok(())
        }
        Event::Acknowledged(what, places) => disk.acknowledged(what, places),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Unflushed,
    Lost,
}

/// What became of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Came,
    Went,
}

/// What is known of a path and all below it, by the rest of the path.
type Known = (Vec<(PathBuf, Content)>, Vec<(PathBuf, Name)>);

struct Disk<'a> {
    /// Files whose content is not durable.
    files: BTreeMap<PathBuf, Content>,
    /// Names that came or went, and may not have.
    names: BTreeMap<PathBuf, Name>,
    /// Files that were exchanged out of their places, with the folders that do not know it yet.
    exchanged: BTreeMap<PathBuf, PathBuf>,
    /// Logs that were flushed since an operation began beside others.
    flushed: Option<BTreeSet<PathBuf>>,
    /// Where something was acknowledged.
    kept: BTreeSet<PathBuf>,
    rules: Rules<'a>,
}

impl Disk<'_> {
    fn did(&mut self, call: &Call) -> Result<(), Violation> {
        match call {
            Call::Open(_) => {}
            Call::Create(path) => {
                self.files.insert(path.clone(), Content::Unflushed);
                self.came(path);
            }
            // Of what was lost nothing is left.
            Call::Empty(path) => {
                self.check_written(path)?;
                self.files.insert(path.clone(), Content::Unflushed);
            }
            Call::MakeFolder(path) => self.came(path),
            Call::Write(path) => {
                self.check_written(path)?;
                self.files.entry(path.clone()).or_insert(Content::Unflushed);
            }
            Call::Sync(path) => {
                if self.files.get(path) != Some(&Content::Lost) {
                    self.files.remove(path);
                    self.flushed.iter_mut().for_each(|flushed| flushed.extend([path.clone()]));
                }
            }
            Call::SyncFolder(folder) => {
                self.names.retain(|name, _| name.parent() != Some(folder));
                self.exchanged.retain(|_, from| from != folder);
            }
            Call::SyncAll => {
                self.files.retain(|_, content| *content == Content::Lost);
                self.names.clear();
                self.exchanged.clear();
            }
            Call::Rename(from, to) => {
                self.check_renamed(from)?;
                self.check_listed(from, to)?;
                let moved = self.take(from);
                drop(self.take(to));
                self.put(to, moved);
                self.exchanged.remove(to);
                let since = self.exchanged.remove(from);
                self.exchanged.extend(since.map(|folder| (to.clone(), folder)));
                self.went(from);
                self.came(to);
            }
            Call::Exchange(from, to) => {
                self.check_renamed(from)?;
                self.check_renamed(to)?;
                let (one, other) = (self.take(from), self.take(to));
                self.put(to, one);
                self.put(from, other);
                let since = self.exchanged.remove(from);
                if let Some(folder) = to.parent().filter(|_| !(self.rules.is_scratch)(to)) {
                    self.exchanged.insert(from.clone(), folder.to_owned());
                }
                self.exchanged.extend(since.map(|folder| (to.clone(), folder)));
                self.came(from);
                self.came(to);
            }
            Call::Link(from, to) => {
                self.check_renamed(from)?;
                self.came(to);
            }
            Call::Remove(path) => {
                self.check_removed(path)?;
                drop(self.take(path));
                self.exchanged.remove(path);
                self.went(path);
            }
        }
        Ok(())
    }

    fn failed(&mut self, call: &Call) {
        match call {
            Call::Sync(path) => {
                self.files.entry(path.clone()).and_modify(|content| *content = Content::Lost);
            }
            Call::SyncAll => self.files.values_mut().for_each(|content| *content = Content::Lost),
            _ => {}
        }
    }

    fn came(&mut self, path: &Path) {
        self.names.insert(path.to_owned(), Name::Came);
    }

    fn went(&mut self, path: &Path) {
        self.names.insert(path.to_owned(), Name::Went);
    }

    fn take(&mut self, path: &Path) -> Known {
        (take(&mut self.files, path), take(&mut self.names, path))
    }

    fn put(&mut self, path: &Path, (files, names): Known) {
        // Joining nothing would add a slash.
        let whole = |rest: PathBuf| if rest.as_os_str().is_empty() { path.to_owned() } else { path.join(rest) };
        self.files.extend(files.into_iter().map(|(file, content)| (whole(file), content)));
        self.names.extend(names.into_iter().map(|(name, became)| (whole(name), became)));
    }

    fn check_written(&self, path: &Path) -> Result<(), Violation> {
        let early = |folder: &PathBuf| Violation::WrittenTooEarly { path: path.to_owned(), folder: folder.clone() };
        self.exchanged.get(path).map_or(Ok(()), |folder| Err(early(folder)))
    }

    fn check_renamed(&self, path: &Path) -> Result<(), Violation> {
        let is_scratch = |file: &Path| file != path && (self.rules.is_scratch)(file);
        let mut below = self.files.keys().filter(|file| file.starts_with(path) && !is_scratch(file));
        below.next().map_or(Ok(()), |file| Err(Violation::RenamedBeforeFlushed(file.clone())))
    }

    /// Files whose content, and names whose coming is not durable.
    fn not_durable(&self) -> impl Iterator<Item = &PathBuf> {
        let came = self.names.iter().filter(|(_, became)| **became == Name::Came);
        self.files.keys().chain(came.map(|(name, _)| name))
    }

    fn check_listed(&self, from: &Path, to: &Path) -> Result<(), Violation> {
        let is_list = (self.rules.is_listed)(to) && to.file_name().is_some_and(|name| name == "current");
        let Some(folder) = to.parent().filter(|_| is_list) else { return Ok(()) };
        let is_beside = |path: &&PathBuf| path.starts_with(folder) && ![folder, from, to].contains(&path.as_path());
        let wrong = self.not_durable().find(is_beside);
        wrong.map_or(Ok(()), |path| Err(Violation::ListedTooEarly { list: to.to_owned(), path: path.clone() }))
    }

    fn check_removed(&self, path: &Path) -> Result<(), Violation> {
        // A log of which nothing was acknowledged may go as it likes.
        if !(self.rules.is_log)(path) || !self.kept.iter().any(|place| path.starts_with(place)) {
            return Ok(());
        }
        let rests_on = |other: &&PathBuf| !(self.rules.is_log)(other) && !(self.rules.is_scratch)(other);
        let missing = self.not_durable().find(rests_on);
        missing.map_or(Ok(()), |other| Err(Violation::LogRemovedTooEarly { log: path.to_owned(), path: other.clone() }))
    }

    /// What is acknowledged rests on its places, all that is in them, and the folders that they are in.
    fn acknowledged(&mut self, what: &str, places: &[PathBuf]) -> Result<(), Violation> {
        let flushed = self.flushed.take().unwrap_or_default();
        self.kept.extend(places.iter().cloned());
        let is_needed = |path: &Path| {
            !(self.rules.is_scratch)(path)
                && places.iter().any(|place| place.starts_with(path) || path.starts_with(place))
        };
        let is_others = |path: &Path| (self.rules.is_log)(path) && flushed.contains(path);
        let acknowledged = what.to_owned();
        for (path, content) in self.files.iter().filter(|(path, _)| is_needed(path)) {
            let path = path.clone();
            match content {
                _ if (self.rules.is_listed)(&path) => {}
                Content::Unflushed if is_others(&path) => {}
                Content::Unflushed => return Err(Violation::ContentNotDurable { acknowledged, path }),
                Content::Lost => return Err(Violation::ContentLost { acknowledged, path }),
            }
        }
        let may_return = |path: &Path, became: Name| became == Name::Went && (self.rules.may_return)(path);
        match self.names.iter().find(|(path, became)| is_needed(path) && !may_return(path, **became)) {
            Some((path, _)) => Err(Violation::NameNotDurable { acknowledged, path: path.clone() }),
            None => Ok(()),
        }
    }
}

fn take<T>(known: &mut BTreeMap<PathBuf, T>, path: &Path) -> Vec<(PathBuf, T)> {
    let taken = known.extract_if(.., |at, _| at.starts_with(path));
    taken.map(|(at, what)| (at.strip_prefix(path).map(Path::to_owned).unwrap_or(at), what)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> PathBuf {
        Path::new("/d").join(name)
    }

    fn did(call: fn(PathBuf) -> Call, name: &str) -> Event {
        Event::Did(call(at(name)))
    }

    fn renamed(from: &str, to: &str) -> Event {
        Event::Did(Call::Rename(at(from), at(to)))
    }

    fn acknowledged() -> Event {
        Event::Acknowledged("it".to_owned(), vec![at("")])
    }

    fn judge(events: &[Event]) -> Result<(), Violation> {
        let is_scratch = |path: &Path| path.starts_with("/d/tmp");
        let is_log = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
        let is_listed = |path: &Path| path.starts_with("/d/lists");
        check(events, Rules { is_scratch: &is_scratch, is_log: &is_log, is_listed: &is_listed, may_return: &is_log })
    }

    /// A file that is written beside its place, renamed, and acknowledged.
    fn published() -> Vec<Event> {
        vec![
            did(Call::MakeFolder, "tmp"),
            did(Call::MakeFolder, "kv"),
            did(Call::SyncFolder, ""),
            did(Call::Create, "tmp/1"),
            did(Call::Write, "tmp/1"),
            did(Call::Sync, "tmp/1"),
            renamed("tmp/1", "kv/a"),
            did(Call::SyncFolder, "kv"),
            acknowledged(),
        ]
    }

    fn without(call: &Call) -> Vec<Event> {
        published().into_iter().filter(|event| *event != Event::Did(call.clone())).collect()
    }

    #[test]
    fn what_is_written_flushed_renamed_and_flushed_is_durable() {
        assert_eq!(judge(&published()), Ok(()));
    }

    #[test]
    fn a_file_must_be_flushed_before_it_is_renamed() {
        let broken = without(&Call::Sync(at("tmp/1")));
        assert_eq!(judge(&broken), Err(Violation::RenamedBeforeFlushed(at("tmp/1"))));
        // A flush before the last write is none.
        let mut early = published();
        early.swap(4, 5);
        assert_eq!(judge(&early), Err(Violation::RenamedBeforeFlushed(at("tmp/1"))));
    }

    #[test]
    fn a_rename_is_durable_once_its_folder_is_flushed() {
        let broken = without(&Call::SyncFolder(at("kv")));
        let expected = Violation::NameNotDurable { acknowledged: "it".to_owned(), path: at("kv/a") };
        assert_eq!(judge(&broken), Err(expected.clone()));
        let mut early = published();
        early.swap(6, 7);
        assert_eq!(judge(&early), Err(expected));
    }

    #[test]
    fn a_folder_is_durable_once_its_parent_is_flushed() {
        let broken = without(&Call::SyncFolder(at("")));
        assert_eq!(judge(&broken), Err(Violation::NameNotDurable { acknowledged: "it".to_owned(), path: at("kv") }));
    }

    #[test]
    fn a_file_that_is_written_in_place_must_be_flushed() {
        let broken = [did(Call::Write, "kv/a"), acknowledged()];
        let expected = Violation::ContentNotDurable { acknowledged: "it".to_owned(), path: at("kv/a") };
        assert_eq!(judge(&broken), Err(expected));
        assert_eq!(judge(&[did(Call::Write, "kv/a"), did(Call::Sync, "kv/a"), acknowledged()]), Ok(()));
    }

    #[test]
    fn a_removal_is_durable_once_its_folder_is_flushed() {
        let removed = did(Call::Remove, "kv/a");
        let expected = Violation::NameNotDurable { acknowledged: "it".to_owned(), path: at("kv/a") };
        assert_eq!(judge(&[removed.clone(), acknowledged()]), Err(expected));
        assert_eq!(judge(&[removed, did(Call::SyncFolder, "kv"), acknowledged()]), Ok(()));
    }

    #[test]
    fn a_file_whose_flush_failed_is_never_durable_again() {
        let failed = Event::Failed(Call::Sync(at("a.log")));
        let again = [did(Call::Write, "a.log"), did(Call::Sync, "a.log"), acknowledged()];
        let mut broken = vec![did(Call::Write, "a.log"), failed];
        broken.extend(again);
        let expected = Violation::ContentLost { acknowledged: "it".to_owned(), path: at("a.log") };
        assert_eq!(judge(&broken), Err(expected));
        // Another file in its place is.
        let rest = [
            did(Call::Create, "tmp/1"),
            did(Call::Sync, "tmp/1"),
            renamed("tmp/1", "a.log"),
            did(Call::SyncFolder, ""),
            acknowledged(),
        ];
        broken.truncate(2);
        let mut emptied = broken.clone();
        broken.extend(rest);
        assert_eq!(judge(&broken), Ok(()));
        // And so is what it is filled with once it has been emptied.
        emptied.push(did(Call::Empty, "a.log"));
        assert!(judge(&[emptied.clone(), vec![acknowledged()]].concat()).is_err());
        emptied.extend([did(Call::Sync, "a.log"), acknowledged()]);
        assert_eq!(judge(&emptied), Ok(()));
    }

    #[test]
    fn a_folder_whose_flush_failed_must_be_flushed_again() {
        let mut events = vec![did(Call::Remove, "kv/a"), Event::Failed(Call::SyncFolder(at("kv")))];
        let mut broken = events.clone();
        broken.push(acknowledged());
        let expected = Violation::NameNotDurable { acknowledged: "it".to_owned(), path: at("kv/a") };
        assert_eq!(judge(&broken), Err(expected));
        events.extend([did(Call::SyncFolder, "kv"), acknowledged()]);
        assert_eq!(judge(&events), Ok(()));
    }

    #[test]
    fn what_happened_counts_even_if_it_was_reported_as_failed() {
        let events = [Event::FailedAfter(Call::Remove(at("kv/a"))), acknowledged()];
        assert!(matches!(judge(&events), Err(Violation::NameNotDurable { .. })));
        let events = [did(Call::Write, "a.log"), Event::FailedAfter(Call::Sync(at("a.log"))), acknowledged()];
        assert!(matches!(judge(&events), Err(Violation::ContentLost { .. })));
    }

    #[test]
    fn a_log_goes_once_what_takes_its_place_is_durable() {
        let table = [did(Call::Create, "t"), did(Call::Write, "t"), did(Call::Sync, "t")];
        let broken = |path: &str| Err(Violation::LogRemovedTooEarly { log: at("1.log"), path: at(path) });
        for ends in 1..=3 {
            let mut events = vec![acknowledged()];
            events.extend_from_slice(&table[..ends]);
            events.push(did(Call::Remove, "1.log"));
            assert_eq!(judge(&events), broken("t"), "after {ends}");
            assert_eq!(judge(&events[1..]), Ok(()), "nothing was acknowledged");
        }
        let mut events = vec![acknowledged()];
        events.extend(table);
        events.extend([did(Call::SyncFolder, ""), did(Call::Remove, "1.log")]);
        assert_eq!(judge(&events), Ok(()));
    }

    #[test]
    fn beside_others_an_operation_must_have_flushed_the_log_itself() {
        let write = || did(Call::Write, "a.log");
        let flushed = |events: &[Event]| judge(events).is_ok();
        let flush = || did(Call::Sync, "a.log");
        assert!(flushed(&[Event::Began, write(), flush(), write(), acknowledged()]));
        assert!(!flushed(&[Event::Began, write(), acknowledged()]));
        assert!(!flushed(&[write(), flush(), Event::Began, write(), acknowledged()]));
        assert!(!flushed(&[write(), flush(), write(), acknowledged()]), "only beside others");
        assert!(!flushed(&[Event::Began, write(), flush(), acknowledged(), write(), acknowledged()]), "only once");
    }

    #[test]
    fn what_is_listed_must_be_durable_before_its_list() {
        let list = |before: &[Event]| {
            let rest =
                [did(Call::Create, "lists/new"), did(Call::Sync, "lists/new"), renamed("lists/new", "lists/current")];
            judge(&[before, &rest, &[did(Call::SyncFolder, "lists"), acknowledged()]].concat())
        };
        let table = [did(Call::Create, "lists/t/1"), did(Call::Sync, "lists/t/1"), did(Call::SyncFolder, "lists/t")];
        assert_eq!(list(&table), Ok(()));
        let wrong = Err(Violation::ListedTooEarly { list: at("lists/current"), path: at("lists/t/1") });
        assert_eq!(list(&table[..2]), wrong);
        assert_eq!(list(&[table[0].clone(), table[2].clone()]), wrong);
        // What is in no list is nobody's.
        assert_eq!(judge(&[did(Call::Write, "lists/t/2"), acknowledged()]), Ok(()));
    }

    #[test]
    fn a_log_may_come_back() {
        assert_eq!(judge(&[did(Call::Remove, "1.log"), acknowledged()]), Ok(()));
        assert!(judge(&[did(Call::Create, "1.log"), did(Call::Sync, "1.log"), acknowledged()]).is_err());
    }

    #[test]
    fn what_is_acknowledged_rests_on_its_own_place() {
        let events = |place: &str, acknowledged: &str| {
            vec![did(Call::MakeFolder, place), Event::Acknowledged("it".to_owned(), vec![at(acknowledged)])]
        };
        assert_eq!(judge(&events("a", "b")), Ok(()));
        for (place, acknowledged) in [("a", "a"), ("a", "a/b"), ("a/b", "a")] {
            assert!(judge(&events(place, acknowledged)).is_err(), "{place} {acknowledged}");
        }
    }

    #[test]
    fn what_was_exchanged_is_written_once_its_folder_knows_it() {
        let exchange = || Event::Did(Call::Exchange(at("tmp/1"), at("kv/a")));
        let again = |between: &[Event]| {
            let first = [did(Call::Create, "tmp/1"), did(Call::Sync, "tmp/1"), exchange()];
            judge(&[&first, between, &[did(Call::Write, "tmp/1")]].concat())
        };
        let early = Err(Violation::WrittenTooEarly { path: at("tmp/1"), folder: at("kv") });
        assert_eq!(again(&[]), early);
        assert_eq!(again(&[did(Call::SyncFolder, "tmp")]), early);
        assert_eq!(again(&[Event::Failed(Call::SyncFolder(at("kv")))]), early);
        assert_eq!(again(&[did(Call::SyncFolder, "kv")]), Ok(()));
        assert_eq!(again(&[Event::Did(Call::SyncAll)]), Ok(()));
        // Under another name it is the same file, and without any it is none.
        let renamed = [renamed("tmp/1", "tmp/2"), did(Call::Write, "tmp/2")];
        assert_eq!(again(&renamed), Err(Violation::WrittenTooEarly { path: at("tmp/2"), folder: at("kv") }));
        assert_eq!(again(&[did(Call::Remove, "tmp/1"), did(Call::Create, "tmp/1")]), Ok(()));
    }

    #[test]
    fn a_folder_takes_what_is_in_it_along() {
        let below = [did(Call::Create, "in/kv/a"), did(Call::Sync, "in/kv/a"), renamed("in", "out")];
        let mut events = below.to_vec();
        events.extend([did(Call::SyncFolder, ""), acknowledged()]);
        let expected = Violation::NameNotDurable { acknowledged: "it".to_owned(), path: at("out/kv/a") };
        assert_eq!(judge(&events), Err(expected));
        let unflushed = [did(Call::Write, "in/kv/a"), Event::Did(Call::Exchange(at("in"), at("out")))];
        assert_eq!(judge(&unflushed), Err(Violation::RenamedBeforeFlushed(at("in/kv/a"))));
        let all = [did(Call::Create, "in/kv/a"), Event::Did(Call::SyncAll), renamed("in", "out")];
        let mut events = all.to_vec();
        events.extend([did(Call::SyncFolder, ""), acknowledged()]);
        assert_eq!(judge(&events), Ok(()));
        events.truncate(3);
        events.extend([did(Call::Remove, "out"), did(Call::SyncFolder, ""), acknowledged()]);
        assert_eq!(judge(&events), Ok(()), "of what is removed only that counts");
    }
}
