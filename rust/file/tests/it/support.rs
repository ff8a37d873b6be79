//! Archives that the writer makes on a simulated disk.

use std::path::PathBuf;

use mmnpz_file::batch::Batch;
use mmnpz_file::items::Items;
use mmnpz_file::simulated_disk::SimulatedDisk;
use mmnpz_file::writer::{Answer, ArchiveWriter, NewMember};
use mmnpz_file::{Failure, KeepGoing};
use mmnpz_format::additions::array_field::{ArrayField, Described};
use mmnpz_format::write::placement::{Alignment, Placement};
use mmnpz_format::zip::name::StoredName;

/// Never asks to stop.
pub(crate) const GO_ON: KeepGoing<'static> = &|| true;

/// A writer that appends to the archive on a disk.
pub(crate) fn writer(
    disk: &SimulatedDisk,
    align: u64,
    sync: bool,
) -> Result<ArchiveWriter<&SimulatedDisk>, Failure> {
    ArchiveWriter::append_to(disk, PathBuf::from("disk"), Alignment::new(align)?, sync, GO_ON)
}

/// Writes a member with these bytes, as the binding does. Calls `before` before another directory takes the
/// place of the last one.
pub(crate) fn write(
    writer: &ArchiveWriter<&SimulatedDisk>,
    name: &str,
    data: &[u8],
    before: impl FnMut(),
) -> Result<(), Failure> {
    // No test reads this as an array. The entry of an array of bytes has this field.
    let array = Described { descr: "'|u1'", fortran_order: false, shape: &[data.len() as u64], header: 0 };
    write_described(writer, name, data, ArrayField::new(&array).as_ref(), before)
}

/// Writes a member whose entry has this field, or none, as where the dtype is too long for it.
pub(crate) fn write_described(
    writer: &ArchiveWriter<&SimulatedDisk>,
    name: &str,
    data: &[u8],
    field: Option<&ArrayField>,
    before: impl FnMut(),
) -> Result<(), Failure> {
    let mut member = new_member(name, data, field)?;
    let place = reserve(writer, &member, before)?;
    writer.write(&place, &mut member, &|_| true)
}

/// A member with these bytes, for [`reserve`].
pub(crate) fn new_member<'a>(
    name: &str,
    data: &'a [u8],
    array_field: Option<&'a ArrayField>,
) -> Result<NewMember<'a>, Failure> {
    Ok(NewMember { name: StoredName::new(name)?, header: &[], array_field, items: Items::from(data) })
}

/// Reserves the place of a member, of which nothing is written yet.
pub(crate) fn reserve(
    writer: &ArchiveWriter<&SimulatedDisk>,
    member: &NewMember<'_>,
    before: impl FnMut(),
) -> Result<Placement, Failure> {
    until_placed(writer, || writer.reserve(member, false), before)
}

/// Writes the members of a batch.
pub(crate) fn write_batch(
    writer: &ArchiveWriter<&SimulatedDisk>,
    batch: &mut Batch,
    before: impl FnMut(),
) -> Result<(), Failure> {
    until_placed(writer, || writer.reserve_batch(batch), before)?;
    writer.write_batch(batch)
}

/// Does what must be done until there is a place.
fn until_placed(
    writer: &ArchiveWriter<&SimulatedDisk>,
    mut reserve: impl FnMut() -> Result<Answer, Failure>,
    mut before: impl FnMut(),
) -> Result<Placement, Failure> {
    loop {
        match reserve()? {
            Answer::Place(place) => return Ok(place),
            Answer::NoRoom(size) => {
                before();
                writer.make_room(size)?;
            }
            Answer::Unprepared => {
                before();
                writer.prepare()?;
            }
            answer @ (Answer::Duplicate | Answer::Closed) => panic!("{answer:?}"),
        }
    }
}

/// An archive with these members.
pub(crate) fn archive<'a>(members: impl Iterator<Item = (String, &'a [u8])>) -> Vec<u8> {
    let disk = SimulatedDisk::default();
    let open = writer(&disk, 64, false).unwrap();
    for (name, data) in members {
        write(&open, &name, data, || {}).unwrap();
    }
    open.close(GO_ON).unwrap();
    disk.bytes()
}
