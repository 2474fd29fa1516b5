//! What a killed process leaves in the kernel, and what the next start makes of it.

use std::fs;

use aya::maps::MapInfo;
use bytemuck::Zeroable as _;
use penstock_dataplane::driver_cache::{Entry, Entry4, Flow4, Geometry, Order, Rewrite, Terms};
use penstock_dataplane::nic::af_xdp::generator::Sink;
use penstock_dataplane::nic::af_xdp::{
    AfXdp, AfXdpConfig, AfXdpError, Port, Program, ProgramConfig,
};
use penstock_event_schema::id::NetworkId;

use crate::lab::{LEFT, Lab, RIGHT, until};

/// Directions that the driver carries.
const ENTRIES: u32 = 64;

/// Loads and attaches in the node, with empty tables and without sockets. What is returned ends as
/// by a kill when it is dropped.
fn start(lab: &Lab, ports: &[&str], driver_entries_max: u32) -> Result<Program, AfXdpError> {
    start_with(lab, ports, driver_entries_max, 1)
}

/// The same with these bits for where entries lie.
fn start_with(
    lab: &Lab,
    ports: &[&str],
    driver_entries_max: u32,
    driver_seed: u64,
) -> Result<Program, AfXdpError> {
    let ports = ports.iter().map(|&port| port.to_owned()).collect();
    let config = ProgramConfig { ports, driver_entries_max, driver_seed, ..lab.config() };
    lab.inside("node", move || {
        let mut program = Program::load(config)?;
        program.attach()?;
        Ok(program)
    })
}

/// Opens the first shard's sockets, and says where in the driver flows were left to it.
fn lend(lab: &Lab, mut program: Program) -> (Program, AfXdp, Vec<(u32, Entry)>) {
    lab.inside("node", move || {
        let mut side = AfXdp::open(&AfXdpConfig::default(), &program.ports(), 0).unwrap();
        let leftovers = program.lend_driver(&mut side).unwrap();
        (program, side, leftovers.entries)
    })
}

/// The node's kernel answers at its right port.
fn until_the_host_answers(lab: &Lab) {
    until("an answer of 10.2.0.1", || lab.answers("right", "10.2.0.1"));
}

/// Pins of the maps by which frames go on that the driver's programs leave alone.
fn steer_pins(lab: &Lab) -> Vec<String> {
    let pins = fs::read_dir(lab.run_dir.join("bpf/established-flows")).unwrap();
    let names = pins.map(|pin| pin.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("steer-")).collect()
}

#[test]
fn a_start_that_fails_leaves_what_an_earlier_one_goes_through() {
    // The leftover at the right port was not reached yet, or is of a port that is wanted no more.
    for ports in [&["left", "right"][..], &["left"]] {
        let lab = Lab::new(1);
        drop(start(&lab, &["right"], ENTRIES).unwrap());
        until_the_host_answers(&lab);
        let before = steer_pins(&lab);
        assert_eq!(before.len(), 1, "{before:?}");

        let sink = lab.inside("node", || Sink::attach("left", false).unwrap());
        let error = start(&lab, ports, ENTRIES).err().unwrap().to_string();
        assert!(error.contains("port left is held"), "{ports:?}: {error}");
        let after = steer_pins(&lab);
        assert!(after.contains(&before[0]), "{ports:?}: {before:?} {after:?}");
        until_the_host_answers(&lab);

        drop(sink);
        let next = start(&lab, &["left", "right"], ENTRIES).unwrap();
        let taken_over: Vec<_> = next.attachments().iter().map(|it| it.taken_over).collect();
        assert_eq!(taken_over, [false, true], "{ports:?}");
        let settled = steer_pins(&lab);
        assert!(settled.len() == 1 && !after.contains(&settled[0]), "{after:?} {settled:?}");
        until_the_host_answers(&lab);
    }
}

/// A datagram's direction from the left host to the right one.
fn entry() -> Entry {
    let flow = Flow4 {
        network: 1,
        source: [10, 1, 0, 2],
        destination: [10, 2, 0, 2],
        protocol: 17,
        ..Flow4::zeroed()
    };
    let rewrite = Entry4 { flow, source: [10, 2, 0, 1], ..Entry4::zeroed() };
    Entry { terms: Terms::zeroed(), rewrite: Rewrite::Four(rewrite) }
}

#[test]
fn maps_of_another_layout_are_not_taken_over() {
    for (row, ports, entries, kept) in [
        ("the same", ["left", "right"], ENTRIES, true),
        ("another size", ["left", "right"], 2 * ENTRIES, false),
        ("ports in another order", ["right", "left"], ENTRIES, false),
    ] {
        let lab = Lab::new(1);
        let map = || {
            let pin = lab.run_dir.join("bpf/established-flows/rows4");
            MapInfo::from_pin(pin).unwrap().id()
        };
        let first = start(&lab, &["left", "right"], ENTRIES).unwrap();
        let (first, mut side, found) = lend(&lab, first);
        assert!(found.is_empty(), "{row}: {found:?}");
        let mut said = Vec::new();
        let slot = Geometry::of(ENTRIES).places(&entry().flow(), 1).start;
        let insert = Order::Insert { entry: entry(), slot, only_with: None };
        side.drive(&mut vec![insert], &mut said);
        assert!(said.is_empty(), "{row}: {said:?}");
        let before = map();
        drop((side, first));

        let second = start_with(&lab, &ports, entries, 2).unwrap();
        for attachment in second.attachments() {
            assert!(attachment.taken_over, "{row}: {attachment:?}");
        }
        let (_second, _side, found) = lend(&lab, second);
        assert_eq!(map() == before, kept, "{row}");
        let expected = if kept { vec![(slot, entry())] } else { Vec::new() };
        assert_eq!(found, expected, "{row}");
        until_the_host_answers(&lab);
    }
}

#[test]
fn a_port_that_left_the_namespace_is_gone() {
    let lab = Lab::new(1);
    let mut program = start(&lab, &["left", "right"], ENTRIES).unwrap();
    let networks = [(NetworkId(1), LEFT), (NetworkId(2), RIGHT)];
    let macs = [lab.mac("node", "left"), lab.mac("node", "right")].map(Some);
    let (mut program, drives) = lab.inside("node", move || {
        let drives = program.admit(&networks, &macs).unwrap();
        (program, drives)
    });
    assert_eq!(drives.ingress, 0b11, "{:?}", program.abilities());

    // Its program goes on there, and the index of its interface stays.
    lab.ip("node", &format!("link set left netns {}", lab.name("right")));
    let (program, drives) = lab.inside("node", move || {
        let drives = program.admit(&networks, &macs).unwrap();
        (program, drives)
    });
    let abilities = program.abilities();
    assert_eq!((drives.ingress, drives.egress & 1), (0b10, 0), "{abilities:?}");
    assert_eq!(abilities[0].why(), Some("the port is gone from this network namespace"));
}

#[test]
fn a_port_that_was_renamed_is_taken_over() {
    for (row, changes, ports) in [
        (
            "another name",
            "link set left down; link set left name west; link set west up",
            "west right",
        ),
        (
            "the name of one that is gone",
            "link del left; link set right down; link set right name left; link set left up",
            "left",
        ),
        (
            "exchanged names",
            "link set left down; link set right down; link set left name aside; \
             link set right name left; link set aside name right; link set left up; \
             link set right up",
            "left right",
        ),
    ] {
        let lab = Lab::new(1);
        let first = start(&lab, &["left", "right"], ENTRIES).unwrap();
        let before = first.attachments()[0].program;
        drop(first);
        changes.split("; ").for_each(|change| lab.ip("node", change));

        let ports: Vec<_> = ports.split(' ').collect();
        let next = start(&lab, &ports, ENTRIES).unwrap_or_else(|error| panic!("{row}: {error}"));
        for attachment in next.attachments() {
            let is_new = attachment.taken_over && attachment.program != before;
            assert!(is_new, "{row}: {attachment:?}");
        }
        until_the_host_answers(&lab);
        let pins = fs::read_dir(lab.run_dir.join("bpf")).unwrap();
        let folders = pins.filter(|pin| pin.as_ref().unwrap().path().is_dir()).count();
        assert_eq!(folders, ports.len() + 1, "{row}: one for each port, and the maps'");

        next.detach().unwrap();
        for port in ports {
            let left = lab.inside("node", move || Port::read(port).unwrap().program);
            assert_eq!(left, None, "{row}: port {port}");
        }
    }
}
