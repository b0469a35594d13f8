package verify

// A Reason says in one stable word why a card did not become good. Reasons
// appear in messages, in JSON and in the journal, and never change.
type Reason string

// All the reasons there are.
const (
	ReadbackMismatch Reason = "readback-mismatch" // read back other bytes than were written
	ReadEIO          Reason = "read-eio"          // the card cannot read some of its own bytes
	WriteEIO         Reason = "write-eio"         // the card refuses to be written somewhere
	FlushFailed      Reason = "flush"             // the card could not empty its cache
	Stalled          Reason = "stalled"           // the card stopped answering
	Removed          Reason = "removed"           // the card or its reader was pulled
	TargetChanged    Reason = "target-changed"    // another card sits where the checked one sat
	TooSmall         Reason = "too-small"         // the image does not fit
	FakeCapacity     Reason = "fake-capacity"     // the card holds less than it says
	ReadOnly         Reason = "read-only"         // the card is write-protected
	Busy             Reason = "busy"              // another process holds the card
	Mounted          Reason = "mounted"           // a file system or swap on the card is in use
	SystemDisk       Reason = "system-disk"       // the running system needs this disk
	SourceOnTarget   Reason = "source-on-target"  // the image lies on the card
	ForeignWrite     Reason = "foreign-write"     // somebody else wrote to the card meanwhile
	UnstableRead     Reason = "unstable-read"     // the same place reads differently each time
	ImageDigest      Reason = "image-digest"      // the image is not what its digest says
	ImageDecode      Reason = "image-decode"      // the image cannot be decoded
	IDUnavailable    Reason = "id-unavailable"    // there is no name for the card
	Journal          Reason = "journal"           // what happened could not be recorded
	StoreFull        Reason = "store"             // fell behind, and the decoded copy to go on from was cut short
	Interrupted      Reason = "interrupted"       // somebody ended the run
)

// Reasons are all of them.
var Reasons = [...]Reason{
	ReadbackMismatch, ReadEIO, WriteEIO, FlushFailed, Stalled, Removed, TargetChanged, TooSmall, FakeCapacity, ReadOnly, Busy,
	Mounted, SystemDisk, SourceOnTarget, ForeignWrite, UnstableRead, ImageDigest, ImageDecode, IDUnavailable, Journal, StoreFull, Interrupted,
}

// Hint says in a sentence or two what a reason probably means and what to do.
func (r Reason) Hint() string {
	switch r {
	case ReadbackMismatch:
		return "The card does not keep what is written to it: it is probably worn out, or its controller is faulty. Throw it away."
	case ReadEIO:
		return "The card cannot read its own cells there: it is probably worn out. Try it once more in another reader, then throw it away."
	case WriteEIO:
		return "The card or its reader refused to write there. Try it once more in another reader; if it fails at the same place, throw the card away."
	case FlushFailed:
		return "The card could not store what it had accepted. Try another reader; if it fails again, throw the card away."
	case Stalled:
		return "The card or its reader stopped answering. Pull it out, wait a moment and try it in another slot; if it stalls again, throw it away."
	case Removed:
		return "The card or its reader was pulled out, or lost its power. It is not usable as it is: put it back and write it again."
	case TargetChanged:
		return "There is another card in this place than the one that was checked. Nothing more was written to it: start again with the card you mean."
	case TooSmall:
		return "The image does not fit. Use a bigger card."
	case FakeCapacity:
		return "The card claims more than it has: a counterfeit. Throw it away, and be wary of the others from the same shop."
	case ReadOnly:
		return "The card is write-protected. Slide the little tab on its side away from LOCK; if it is already there, the card has locked itself because it is worn out."
	case Busy:
		return "Another program is using the card. End that program and try again."
	case Mounted:
		return "A file system or swap space on the card is in use. Unmount it and try again."
	case SystemDisk:
		return "This computer runs from this disk. It is never written."
	case SourceOnTarget:
		return "The image lies on this very disk. Copy it elsewhere first."
	case ForeignWrite:
		return "Another program wrote to the card meanwhile, so what is on it cannot be trusted. Stop automatic mounting and formatting tools, and write the card again."
	case UnstableRead:
		return "The same place reads differently each time: the card or its reader is failing. Try another reader; if it happens again, throw the card away."
	case ImageDigest:
		return "The image is not what its checksum says. Get the image again; the card is not usable as it is."
	case ImageDecode:
		return "The image is damaged or incomplete. Get the image again; the card is not usable as it is."
	case IDUnavailable:
		return "There is no name left for this card. Add names to the list."
	case Journal:
		return "What happened could not be recorded. Make room on the disk that holds the journal, and write the card again."
	case StoreFull:
		return "The card fell behind the others, and there was no room for the decoded copy to go on from. Make room, choose another place with --store=DIR, or write this card again by itself."
	case Interrupted:
		return "The card is not usable as it is: write it again."
	}
	return ""
}
