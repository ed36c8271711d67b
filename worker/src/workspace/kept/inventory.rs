//! The inventory of a tree: every file and directory in it, with its stamp.
//!
//! It lies beside the tree, where no agent can write, and the worker remembers its digest.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;
use sha2::{Digest as _, Sha256};

use super::super::directory::{Directory, Moment, STAMP_BYTES, Stamp};
use super::super::git::path_of;

/// The unit in which file systems give space.
const BLOCK: u64 = 4096;

pub(super) type Digest = [u8; 32];

/// Paths relative to the tree, as bytes. The agent's `.git` is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inventory {
    entries: HashMap<Vec<u8>, Stamp>,
}

impl Inventory {
    /// Looks at a tree that git has just checked out.
    ///
    /// # Errors
    /// If the tree contains anything but files, links and directories, or cannot be read.
    pub(super) fn take(tree: &Directory) -> io::Result<Self> {
        let mut inventory = Self::default();
        let mounted = tree.walk(&mut |directory, path, entry| {
            if is_agents_repository(path) {
                return Ok(false);
            }
            let stamp = directory.stamp(Path::new(&entry.name))?;
            let stamp = stamp.ok_or_else(|| odd(path, "is gone"))?;
            const USUAL: [FileType; 3] = [
                FileType::Directory,
                FileType::RegularFile,
                FileType::Symlink,
            ];
            if !USUAL.contains(&stamp.kind()) {
                return Err(odd(path, "is a special file"));
            }
            inventory.put(path, stamp);
            Ok(stamp.is_directory())
        })?;
        match mounted.first() {
            Some(path) => Err(odd(path, "is a mounted file system")),
            None => Ok(inventory),
        }
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Stamp> {
        self.entries.get(path.as_os_str().as_bytes())
    }

    pub(super) fn put(&mut self, path: &Path, stamp: Stamp) {
        self.entries
            .insert(path.as_os_str().as_bytes().to_owned(), stamp);
    }

    /// All paths that the other inventory lacks.
    pub(super) fn not_in(&self, other: &Self) -> Vec<Vec<u8>> {
        let paths = self.entries.keys();
        let missing = paths.filter(|path| !other.entries.contains_key(*path));
        missing.cloned().collect()
    }

    /// Looks again at these paths, at the directories above them, and at every directory of the
    /// inventory. Those that are gone are left out.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn look_again(&mut self, tree: &Directory, paths: &[Vec<u8>]) -> io::Result<()> {
        let directories = self
            .entries
            .iter()
            .filter(|(_, stamp)| stamp.is_directory());
        let mut again: Vec<Vec<u8>> = directories.map(|(path, _)| path.clone()).collect();
        for path in paths {
            let mut path = path.as_slice();
            while !path.is_empty() {
                again.push(path.to_owned());
                path = above(path);
            }
        }
        again.sort_unstable();
        again.dedup();
        for path in again {
            match tree.stamp(&path_of(&path))? {
                Some(stamp) => self.entries.insert(path, stamp),
                None => self.entries.remove(&path),
            };
        }
        Ok(())
    }

    /// The time of the last change in the tree.
    pub(super) fn last_change(&self) -> Moment {
        let changes = self.entries.values().map(Stamp::changed);
        changes.max().unwrap_or_default()
    }

    /// The bytes that the tree takes on the disk, roughly.
    pub(super) fn bytes(&self) -> u64 {
        let sizes = self.entries.values().map(Stamp::size);
        sizes.fold(0, |all, size| {
            all.saturating_add(size.max(1).next_multiple_of(BLOCK))
        })
    }

    /// Writes the inventory to a file that takes the place of an earlier one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn save(&self, file: &Path) -> io::Result<Digest> {
        let new = file.with_extension("new");
        let mut digest = Sha256::new();
        let mut writer = BufWriter::new(File::create(&new)?);
        let mut record = Vec::new();
        for (path, stamp) in &self.entries {
            record.clear();
            let length = u32::try_from(path.len()).map_err(io::Error::other)?;
            record.extend(length.to_le_bytes());
            record.extend(path);
            record.extend(stamp.to_bytes());
            digest.update(&record);
            writer.write_all(&record)?;
        }
        writer.flush()?;
        fs::rename(new, file)?;
        Ok(digest.finalize().into())
    }

    /// Reads an inventory that [`Self::save`] has written.
    ///
    /// # Errors
    /// If it is not the same any more.
    pub(super) fn load(file: &Path, digest: &Digest) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::open(file)?.read_to_end(&mut bytes)?;
        let found: Digest = Sha256::digest(&bytes).into();
        let read = (found == *digest).then(|| Self::parse(&bytes)).flatten();
        read.ok_or_else(|| io::Error::other("its inventory is not the one that was written"))
    }

    fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut inventory = Self::default();
        while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (path, rest) = rest.split_at_checked(length)?;
            let (stamp, rest) = rest.split_at_checked(STAMP_BYTES)?;
            let stamp = Stamp::from_bytes(stamp)?;
            inventory.entries.insert(path.to_owned(), stamp);
            bytes = rest;
        }
        bytes.is_empty().then_some(inventory)
    }
}

/// Whether the path is `.git` at the top, which belongs to the agent.
pub(super) fn is_agents_repository(path: &Path) -> bool {
    path == Path::new(".git")
}

/// The path without its last name.
fn above(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/');
    path.get(..end.unwrap_or(0)).unwrap_or_default()
}

fn odd(path: &Path, what: &str) -> io::Error {
    io::Error::other(format!("{} {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Directory) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("tree/docs/deep")).expect("directories");
        fs::create_dir(dir.path().join("tree/.git")).expect("a directory");
        fs::write(dir.path().join("tree/docs/a b"), "text").expect("a file");
        std::os::unix::fs::symlink("docs", dir.path().join("tree/link")).expect("a link");
        let tree = Directory::open(&dir.path().join("tree")).expect("a tree");
        (dir, tree)
    }

    #[test]
    fn an_inventory_is_read_as_it_was_written() {
        let (dir, tree) = tree();
        let inventory = Inventory::take(&tree).expect("an inventory");
        let mut paths: Vec<&[u8]> = inventory.entries.keys().map(Vec::as_slice).collect();
        paths.sort_unstable();
        let expected: [&[u8]; 4] = [b"docs", b"docs/a b", b"docs/deep", b"link"];
        assert_eq!(paths, expected, "everything but the agent's repository");
        let file = dir.path().join("inventory");
        let digest = inventory.save(&file).expect("it is written");
        let read = Inventory::load(&file, &digest).expect("it is read");
        assert_eq!(read, inventory, "nothing is lost");
        assert!(read.bytes() >= 4 * BLOCK, "each takes a block");
        let mut bytes = fs::read(&file).expect("bytes");
        bytes[20] ^= 1;
        fs::write(&file, bytes).expect("bytes");
        Inventory::load(&file, &digest).expect_err("another inventory is refused");
    }

    #[test]
    fn a_second_look_finds_what_came_and_what_went() {
        let (dir, tree) = tree();
        let mut inventory = Inventory::take(&tree).expect("an inventory");
        fs::remove_dir(dir.path().join("tree/docs/deep")).expect("it was there");
        fs::create_dir_all(dir.path().join("tree/new/inner")).expect("directories");
        fs::write(dir.path().join("tree/new/inner/file"), "x").expect("a file");
        let paths = [b"new/inner/file".to_vec(), b"docs/deep/gone".to_vec()];
        inventory.look_again(&tree, &paths).expect("a look");
        let fresh = Inventory::take(&tree).expect("an inventory");
        assert_eq!(inventory, fresh, "as if it were new");
    }

    #[test]
    fn a_special_file_has_no_place_in_an_inventory() {
        let (dir, tree) = tree();
        let socket = dir.path().join("tree/docs/socket");
        let _socket = std::os::unix::net::UnixListener::bind(socket).expect("a socket");
        let error = Inventory::take(&tree)
            .expect_err("it is refused")
            .to_string();
        assert!(error.contains("docs/socket"), "it is named: {error}");
    }
}
