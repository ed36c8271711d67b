fn main() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|word| word == worker::sandbox::HELPER_COMMAND) {
        worker::sandbox::exec::main(args);
    }
}
