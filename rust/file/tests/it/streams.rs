//! Arrays that grow, beside other threads.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mmnpz_file::items::Items;
use mmnpz_file::simulated_disk::SimulatedDisk;
use mmnpz_file::storage::{Contents, Storage};
use mmnpz_file::stream::{Rows, Stream};
use mmnpz_file::writer::ArchiveWriter;
use mmnpz_format::write::placement::Alignment;
use mmnpz_format::zip::name::StoredName;

use crate::support::{self, GO_ON};

/// A disk that says when a directory is about to be written, and then waits for an answer, but not for long.
struct Paused<'a> {
    disk: &'a SimulatedDisk,
    talk: Mutex<(Sender<()>, Receiver<()>)>,
}

impl Storage for Paused<'_> {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if bytes.starts_with(b"PK\x01\x02") {
            let talk = self.talk.lock().unwrap();
            let _ = talk.0.send(());
            let _ = talk.1.recv_timeout(Duration::from_millis(300));
        }
        self.disk.write_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }

    fn contents(&self) -> io::Result<Contents> {
        self.disk.contents()
    }
}

/// A stream of bytes, which the writer has taken up.
fn begin(writer: &ArchiveWriter<impl Storage>, name: &str) -> Arc<Stream> {
    let (name, descr) = (StoredName::new(name).unwrap(), "'|u1'".to_owned());
    let stream = Arc::new(Stream::new(Rows { name, descr, shape: Vec::new(), size: 1 }).unwrap());
    assert!(writer.begin_stream(&stream).unwrap());
    stream
}

fn append(writer: &ArchiveWriter<impl Storage>, stream: &Stream) {
    writer.append_rows(stream, 200, &mut Items::from(&[7; 200][..]), GO_ON).unwrap();
}

#[test]
fn once_rows_are_synced_every_directory_is() {
    let disk = SimulatedDisk::default();
    let writer = support::writer(&disk, 64, false).unwrap();
    let grows = begin(&writer, "grows.npy");
    append(&writer, &grows);
    for (number, is_synced) in [false, true].into_iter().enumerate() {
        writer.flush_stream(&grows, is_synced, GO_ON).unwrap();
        let finished = begin(&writer, &format!("{number}.npy"));
        append(&writer, &finished);
        writer.finish_stream(&finished, GO_ON).unwrap();
        writer.flush(false).unwrap();
        // A directory that is torn would hide the rows.
        assert_eq!(disk.history().synced(disk.now()) == disk.now(), is_synced);
    }
}

#[test]
fn a_directory_that_is_being_written_is_on_the_disk_before_rows_are_said_to_be() {
    let disk = SimulatedDisk::default();
    let (to_flush, begun) = channel();
    let (answers, answered) = channel();
    let paused = Paused { disk: &disk, talk: Mutex::new((to_flush, answered)) };
    let align = Alignment::new(64).unwrap();
    let writer = ArchiveWriter::append_to(paused, PathBuf::from("disk"), align, false, GO_ON).unwrap();
    let (finished, grows) = (begin(&writer, "finished.npy"), begin(&writer, "grows.npy"));
    append(&writer, &finished);
    writer.finish_stream(&finished, GO_ON).unwrap();
    append(&writer, &grows);
    writer.flush_stream(&grows, false, GO_ON).unwrap();
    thread::scope(|scope| {
        let flush = scope.spawn(|| writer.flush(false));
        begun.recv().unwrap();
        writer.flush_stream(&grows, true, GO_ON).unwrap();
        // A directory that is torn now would hide the rows.
        assert_eq!(disk.history().synced(disk.now()), disk.now());
        let _ = answers.send(());
        flush.join().unwrap().unwrap();
    });
    assert_eq!(disk.history().synced(disk.now()), disk.now(), "the directory came after the rows");
}
