//! WASI 0.2, called directly: the C library would keep some paths from the host.

use std::net::SocketAddr;

use kvtier_guest::wasip2::filesystem::preopens;
use kvtier_guest::wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};
use kvtier_guest::wasip2::sockets::instance_network::instance_network;
use kvtier_guest::wasip2::sockets::ip_name_lookup::resolve_addresses;
use kvtier_guest::wasip2::sockets::network::{self, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use kvtier_guest::wasip2::sockets::tcp_create_socket::create_tcp_socket;
use kvtier_guest::wasip2::sockets::udp_create_socket::create_udp_socket;

use crate::{Outcome, done, http};

pub(crate) fn take(words: &[&str]) -> Outcome {
    if let Some(outcome) = http::take2(words) {
        return outcome;
    }
    match *words {
        ["connect", address] => connect(address),
        ["listen"] => done(listen()),
        ["bind", address] => done(bind(address)),
        ["udp"] => done(create_udp_socket(IpAddressFamily::Ipv4)),
        ["resolve", name] => {
            let found = resolve_addresses(&instance_network(), name).map_err(|code| format!("{code:?}"))?;
            found.subscribe().block();
            let mut addresses = Vec::new();
            while let Some(address) = found.resolve_next_address().map_err(|code| format!("{code:?}"))? {
                addresses.push(format!("{address:?}"));
            }
            Ok(addresses.join(" "))
        }
        _ => {
            let granted = preopens::get_directories().into_iter().next();
            let (root, _) = granted.ok_or_else(|| "no directory".to_owned())?;
            file(&root, words)
        }
    }
}

fn file(root: &Descriptor, words: &[&str]) -> Outcome {
    let open = |path: &str, open: OpenFlags, flags: DescriptorFlags| {
        root.open_at(PathFlags::SYMLINK_FOLLOW, path, open, flags)
    };
    match *words {
        ["open", path] => {
            let text =
                open(path, OpenFlags::empty(), DescriptorFlags::READ).and_then(|file| file.read(1024, 0));
            text.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned())
                .map_err(|code| format!("{code:?}"))
        }
        ["list", path] => {
            let directory = open(path, OpenFlags::DIRECTORY, DescriptorFlags::READ);
            done(directory.and_then(|directory| directory.read_directory()))
        }
        ["write", path] => done(
            open(path, OpenFlags::empty(), DescriptorFlags::WRITE)
                .and_then(|file| file.write(b"intruder", 0)),
        ),
        ["create", path] => done(open(path, OpenFlags::CREATE, DescriptorFlags::WRITE)),
        ["truncate", path] => done(open(path, OpenFlags::TRUNCATE, DescriptorFlags::READ)),
        ["resize", path] => {
            done(open(path, OpenFlags::empty(), DescriptorFlags::READ).and_then(|file| file.set_size(0)))
        }
        ["mkdir", path] => done(root.create_directory_at(path)),
        ["symlink", old, new] => done(root.symlink_at(old, new)),
        ["link", old, new] => done(root.link_at(PathFlags::empty(), old, root, new)),
        ["rename", old, new] => done(root.rename_at(old, root, new)),
        ["unlink", path] => done(root.unlink_file_at(path)),
        ["rmdir", path] => done(root.remove_directory_at(path)),
        ["readlink", path] => root.readlink_at(path).map_err(|code| format!("{code:?}")),
        ["stat", path] => done(root.stat_at(PathFlags::SYMLINK_FOLLOW, path)),
        ["hash", path] => done(root.metadata_hash_at(PathFlags::SYMLINK_FOLLOW, path)),
        ["exists", path] => match root.stat_at(PathFlags::empty(), path) {
            Err(ErrorCode::NoEntry) => Err("it does not exist".to_owned()),
            other => done(other),
        },
        _ => Err(format!("no such step: {words:?}")),
    }
}

fn parse(address: &str) -> Result<IpSocketAddress, String> {
    match address.parse() {
        Ok(SocketAddr::V4(address)) => {
            let [a, b, c, d] = address.ip().octets();
            Ok(IpSocketAddress::Ipv4(Ipv4SocketAddress { port: address.port(), address: (a, b, c, d) }))
        }
        other => Err(format!("no IPv4 address: {other:?}")),
    }
}

fn connect(address: &str) -> Outcome {
    let address = parse(address)?;
    let socket = create_tcp_socket(IpAddressFamily::Ipv4).map_err(|code| format!("{code:?}"))?;
    let started = socket.start_connect(&instance_network(), address);
    started.map_err(|code| format!("{code:?}"))?;
    loop {
        match socket.finish_connect() {
            Err(network::ErrorCode::WouldBlock) => socket.subscribe().block(),
            other => return done(other),
        }
    }
}

fn bind(address: &str) -> Result<(), String> {
    let address = parse(address)?;
    let socket = create_tcp_socket(IpAddressFamily::Ipv4).map_err(|code| format!("{code:?}"))?;
    let bound = socket.start_bind(&instance_network(), address).and_then(|()| socket.finish_bind());
    bound.map_err(|code| format!("{code:?}"))
}

fn listen() -> Result<(), String> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4).map_err(|code| format!("{code:?}"))?;
    let any = IpSocketAddress::Ipv4(Ipv4SocketAddress { port: 0, address: (0, 0, 0, 0) });
    let listening = socket
        .start_bind(&instance_network(), any)
        .and_then(|()| socket.finish_bind())
        .and_then(|()| socket.start_listen())
        .and_then(|()| socket.finish_listen());
    listening.map_err(|code| format!("{code:?}"))
}
