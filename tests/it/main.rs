//! payd and payctl from outside: real binaries, scripted counterparts, and what is generated.

mod support;

mod payctl;

mod generated;
