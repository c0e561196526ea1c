//! The head of a file that is being written is given back, and the rest of the file does not move
//! (broker/src/logs/bounds.rs).

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

/// fallocate(2), FALLOC_FL_PUNCH_HOLE: "the specified range... reads of this range will return
/// zeros", "supported by XFS, ext4, Btrfs, tmpfs, gfs2"; and lseek(2), SEEK_DATA: "the next
/// location in the file greater than or equal to offset containing data".
#[test]
fn a_hole_at_the_head_moves_nothing_and_is_seen() {
    for directory in [std::env::temp_dir().as_path(), Path::new("/dev/shm")] {
        let mut file = tempfile::Builder::new().append(true).tempfile_in(directory).unwrap();
        let other = File::options().read(true).write(true).open(file.path()).unwrap();
        file.write_all(&[b'x'; 1 << 20]).unwrap();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for end in [256 << 10, 768 << 10] {
            fallocate(&other, flags, 0, end).unwrap();
            assert_eq!(seek(&other, SeekFrom::Data(0)).unwrap(), end, "{directory:?}");
            assert_eq!(seek(&other, SeekFrom::Data(end)).unwrap(), end);
            assert_eq!(seek(&other, SeekFrom::Data(end + 5)).unwrap(), end + 5);
            let mut seam = [0; 2];
            other.read_exact_at(&mut seam, end - 1).unwrap();
            assert_eq!(seam, [0, b'x']);
        }
        // O_APPEND of the other description appends at the same offset, however much was given
        // back.
        file.write_all(b"more").unwrap();
        let metadata = other.metadata().unwrap();
        assert_eq!(metadata.len(), (1 << 20) + 4);
        assert!(
            metadata.blocks() * 512 <= 512 << 10,
            "{directory:?}: {}",
            metadata.blocks()
        );
    }
}
