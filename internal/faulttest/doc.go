// Package faulttest tests that a faulty card, a faulty image and a rude end are
// what they are called: every fault that a fake card (package device/devicetest)
// can have goes through the whole of multidd on a real block device, and the
// verdict, the message and what the card holds at rest are judged. There is
// nothing in it but tests.
//
// Runs that only need the engine are done in this process, as `multidd write`
// does them. Where processes matter (one that hangs in the kernel, a signal, its
// memory, an exit status) the program itself is built and started. Every fault has
// a control: without the fault, or with what detects it turned off, the outcome
// is another one.
package faulttest
