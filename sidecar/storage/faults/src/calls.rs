//! What a system call is about to do to which file.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use libc::{c_int, c_long};

use crate::kernel::Asked;

/// A change of files, or a flush.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Opens a file for writing that is there, and leaves it as it is.
    Open(PathBuf),
    /// Makes a new file.
    Create(PathBuf),
    /// Opens a file for writing that is there, and empties it.
    Empty(PathBuf),
    /// Changes a file's content or length.
    Write(PathBuf),
    /// Flushes a file.
    Sync(PathBuf),
    /// Flushes a folder: which names are in it.
    SyncFolder(PathBuf),
    /// Flushes everything.
    SyncAll,
    /// Gives a file or folder another name; what had that name is gone.
    Rename(PathBuf, PathBuf),
    /// Exchanges the names of two files or folders.
    Exchange(PathBuf, PathBuf),
    /// Gives a file a second name.
    Link(PathBuf, PathBuf),
    /// Removes a name.
    Remove(PathBuf),
    /// Makes a new folder.
    MakeFolder(PathBuf),
}

/// What calls have in common that fail for the same reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Opens or makes a file.
    Open,
    /// Changes content or length.
    Write,
    /// Flushes a file.
    Sync,
    /// Flushes a folder, or everything.
    SyncFolder,
    /// Gives a file or folder another name.
    Rename,
    /// Removes a name.
    Remove,
    /// Makes a folder.
    MakeFolder,
}

impl Kind {
    /// Each kind once.
    pub const ALL: [Self; 7] =
        [Self::Open, Self::Write, Self::Sync, Self::SyncFolder, Self::Rename, Self::Remove, Self::MakeFolder];
}

impl Call {
    /// Of which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Open(_) | Self::Create(_) | Self::Empty(_) => Kind::Open,
            Self::Write(_) => Kind::Write,
            Self::Sync(_) => Kind::Sync,
            Self::SyncFolder(_) | Self::SyncAll => Kind::SyncFolder,
            Self::Rename(..) | Self::Exchange(..) | Self::Link(..) => Kind::Rename,
            Self::Remove(_) => Kind::Remove,
            Self::MakeFolder(_) => Kind::MakeFolder,
        }
    }

    /// Whether it concerns something below a folder.
    pub(crate) fn is_below(&self, root: &Path) -> bool {
        match self {
            Self::Open(path)
            | Self::Create(path)
            | Self::Empty(path)
            | Self::Write(path)
            | Self::Sync(path)
            | Self::SyncFolder(path)
            | Self::Remove(path)
            | Self::MakeFolder(path) => path.starts_with(root),
            Self::Rename(from, to) | Self::Exchange(from, to) | Self::Link(from, to) => {
                from.starts_with(root) || to.starts_with(root)
            }
            Self::SyncAll => true,
        }
    }

    /// Does it in the caller's stead. `None`: it is one that only the caller can do.
    pub(crate) fn perform(&self) -> Option<io::Result<()>> {
        Some(match self {
            Self::Sync(path) | Self::SyncFolder(path) => File::open(path).and_then(|file| file.sync_all()),
            Self::Rename(from, to) => fs::rename(from, to),
            Self::Remove(path) if path.is_dir() => fs::remove_dir(path),
            Self::Remove(path) => fs::remove_file(path),
            Self::MakeFolder(path) => fs::create_dir(path),
            _ => return None,
        })
    }
}

/// All calls that are asked about.
pub(crate) const NUMBERS: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    libc::SYS_splice,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_truncate,
    libc::SYS_io_uring_setup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
];

/// What is asked for.
pub(crate) enum Meaning {
    /// One of ours.
    Call(Call),
    /// It changes no file, or none that has a name.
    Nothing,
    /// A way around us: it must look as if the kernel did not have it.
    Evasion,
}

/// Reads calls of this process. Their threads wait meanwhile, so that memory and descriptors stay as they are.
#[derive(Debug)]
pub(crate) struct Reader {
    memory: File,
}

const HERE: u64 = libc::AT_FDCWD as u64;

impl Reader {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { memory: File::open("/proc/self/mem")? })
    }

    /// What a call is about to do. One that will fail for lack of what it needs does nothing.
    pub(crate) fn read(&self, asked: &Asked) -> io::Result<Meaning> {
        let [a, b, c, d, e, _] = asked.arguments;
        let call = match asked.number {
            libc::SYS_openat => self.open(a, b, c)?,
            // The first field of its structure is the flags.
            libc::SYS_openat2 => self.open(a, b, self.number(c)?)?,
            libc::SYS_write
            | libc::SYS_writev
            | libc::SYS_pwrite64
            | libc::SYS_pwritev
            | libc::SYS_pwritev2
            | libc::SYS_ftruncate
            | libc::SYS_fallocate
            | libc::SYS_sendfile => named(a).map(Call::Write),
            libc::SYS_copy_file_range | libc::SYS_splice => named(c).map(Call::Write),
            libc::SYS_truncate => Some(Call::Write(self.path(HERE, a)?)),
            libc::SYS_fsync | libc::SYS_fdatasync => {
                named(a).map(|path| if path.is_dir() { Call::SyncFolder(path) } else { Call::Sync(path) })
            }
            libc::SYS_sync | libc::SYS_syncfs => Some(Call::SyncAll),
            libc::SYS_renameat => self.rename((a, b), (c, d), 0)?,
            libc::SYS_renameat2 => self.rename((a, b), (c, d), e)?,
            libc::SYS_linkat => self.link((a, b), (c, d))?,
            libc::SYS_unlinkat => self.remove(a, b)?,
            libc::SYS_mkdirat => self.make_folder(a, b)?,
            libc::SYS_io_uring_setup => return Ok(Meaning::Evasion),
            #[cfg(target_arch = "x86_64")]
            number => self.read_old(number, [a, b])?,
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        };
        Ok(call.map_or(Meaning::Nothing, Meaning::Call))
    }

    /// The calls without a folder of their own, which newer architectures do not have.
    #[cfg(target_arch = "x86_64")]
    fn read_old(&self, number: c_long, [a, b]: [u64; 2]) -> io::Result<Option<Call>> {
        match number {
            libc::SYS_open => self.open(HERE, a, b),
            libc::SYS_creat => self.open(HERE, a, (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64),
            libc::SYS_rename => self.rename((HERE, a), (HERE, b), 0),
            libc::SYS_link => self.link((HERE, a), (HERE, b)),
            libc::SYS_unlink | libc::SYS_rmdir => self.remove(HERE, a),
            libc::SYS_mkdir => self.make_folder(HERE, a),
            _ => Ok(None),
        }
    }

    fn open(&self, folder: u64, path: u64, flags: u64) -> io::Result<Option<Call>> {
        let has = |flag: c_int| flags & flag as u64 == flag as u64;
        if !has(libc::O_CREAT) && flags & libc::O_ACCMODE as u64 == libc::O_RDONLY as u64 {
            return Ok(None);
        }
        let path = self.path(folder, path)?;
        Ok(match exists(&path) {
            true if has(libc::O_CREAT) && has(libc::O_EXCL) => None,
            true if has(libc::O_TRUNC) => Some(Call::Empty(path)),
            true => Some(Call::Open(path)),
            false => has(libc::O_CREAT).then_some(Call::Create(path)),
        })
    }

    fn rename(&self, from: (u64, u64), to: (u64, u64), flags: u64) -> io::Result<Option<Call>> {
        let (from, to) = (self.path(from.0, from.1)?, self.path(to.0, to.1)?);
        let exchange = flags & u64::from(libc::RENAME_EXCHANGE) != 0;
        Ok(match (exists(&from), exists(&to)) {
            (true, true) if exchange => Some(Call::Exchange(from, to)),
            (true, _) if !exchange => Some(Call::Rename(from, to)),
            _ => None,
        })
    }

    fn link(&self, from: (u64, u64), to: (u64, u64)) -> io::Result<Option<Call>> {
        let (from, to) = (self.path(from.0, from.1)?, self.path(to.0, to.1)?);
        Ok((exists(&from) && !exists(&to)).then_some(Call::Link(from, to)))
    }

    fn remove(&self, folder: u64, path: u64) -> io::Result<Option<Call>> {
        let path = self.path(folder, path)?;
        Ok(exists(&path).then_some(Call::Remove(path)))
    }

    fn make_folder(&self, folder: u64, path: u64) -> io::Result<Option<Call>> {
        let path = self.path(folder, path)?;
        Ok((!exists(&path)).then_some(Call::MakeFolder(path)))
    }

    fn path(&self, folder: u64, pointer: u64) -> io::Result<PathBuf> {
        let text = self.text(pointer)?;
        let path = Path::new(OsStr::from_bytes(&text));
        if path.is_absolute() {
            return Ok(path.to_owned());
        }
        let folder = match folder as c_int {
            libc::AT_FDCWD => std::env::current_dir()?,
            folder => fs::read_link(format!("/proc/self/fd/{folder}"))?,
        };
        Ok(folder.join(path))
    }

    fn text(&self, pointer: u64) -> io::Result<Vec<u8>> {
        let mut text = vec![0; libc::PATH_MAX as usize];
        // Less than asked for, where the memory ends.
        let length = self.memory.read_at(&mut text, pointer)?;
        text.truncate(text[..length].iter().position(|byte| *byte == 0).unwrap_or(length));
        Ok(text)
    }

    fn number(&self, pointer: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, pointer)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// The name of an open file or folder, if it has one (any more).
fn named(fd: u64) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/self/fd/{}", fd as c_int)).ok()?;
    let is_named = path.is_absolute() && !path.as_os_str().as_bytes().ends_with(b" (deleted)");
    is_named.then_some(path)
}
