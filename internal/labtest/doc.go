// Package labtest tests multidd as people meet it: the program itself, in a
// virtual machine with real USB card readers (package cardlab), whose cards are
// pulled, exchanged, slowed down and broken while it writes, and whose power is
// cut. There is nothing in it but tests. What a card holds is judged from
// outside, by the file that stands for it.
//
// Where the lab is not set up, and with -short, the tests are skipped. A card
// pulled in mid-write, a slow card and a bad sector run wherever the lab is set
// up; the rest if the environment says MULTIDD_LAB=all.
package labtest
