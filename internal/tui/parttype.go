package tui

import "strings"

// mbrTypes says the types of an MBR in words, as far as cards have them. The numbers
// are those of sfdisk.
func mbrTypes() map[string]string {
	return map[string]string{
		"01": "FAT12", "04": "FAT16", "06": "FAT16", "0e": "FAT16 (LBA)", "0b": "FAT32", "0c": "FAT32 (LBA)",
		"07": "NTFS or exFAT", "11": "hidden FAT12", "14": "hidden FAT16", "1b": "hidden FAT32", "1c": "hidden FAT32 (LBA)",
		"39": "Plan 9", "42": "Windows dynamic", "53": "OnTrack", "63": "UNIX", "82": "Linux swap", "83": "Linux", "85": "Linux extended",
		"88": "Linux plain text", "8e": "Linux LVM", "a2": "Altera boot", "a5": "FreeBSD", "a6": "OpenBSD", "a9": "NetBSD", "af": "HFS+",
		"da": "no file system", "e8": "LUKS", "ea": "Linux boot (XBOOTLDR)", "ee": "GPT", "ef": "EFI system", "f0": "boot loader", "fd": "Linux RAID",
	}
}

// gptTypes says the types of a GPT in words. The numbers are those of the UEFI
// specification, of the Discoverable Partitions Specification and of sfdisk.
func gptTypes() map[string]string {
	return map[string]string{
		"c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
		"21686148-6449-6e6f-744e-656564454649": "BIOS boot",
		"024dee41-33e7-11d3-9d69-0008c781f39f": "MBR scheme",
		"0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
		"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
		"e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
		"a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
		"933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
		"3b8f8425-20e0-4f3b-907f-1a25a76f98e8": "Linux server data",
		"bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux boot (XBOOTLDR)",
		"4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root (x86-64)",
		"44479540-f297-41b2-9af7-d131d5f0458a": "Linux root (x86)",
		"b921b045-1df0-41c3-af44-4c6f280d3fae": "Linux root (ARM64)",
		"69dad710-2ce4-4e3c-b16c-21a1d49abed3": "Linux root (ARM)",
		"72ec70a6-cf74-40e6-bd49-4bda08e8f224": "Linux root (RISC-V 64)",
		"ca7d7ccb-63ed-4c53-861c-1742536059cc": "LUKS",
		"8da63339-0007-60c0-c436-083ac8230908": "Linux reserved",
		"ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "basic data",
		"e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
		"de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
		"3de21764-95bd-54bd-a5c3-4abe786f38a8": "U-Boot environment",
		"fe3a2a5d-4f32-41a7-b725-accc3285a309": "ChromeOS kernel",
		"3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec": "ChromeOS root",
		"48465300-0000-11aa-aa11-00306543ecac": "HFS+",
		"7c3457ef-0000-11aa-aa11-00306543ecac": "APFS",
	}
}

// PartType says the type of a partition in words, from the kind of the table, "mbr"
// or "gpt", and the type as it stands there. What has no words stays as it is.
func PartType(table, kind string) string {
	words := gptTypes()
	if table == "mbr" {
		words = mbrTypes()
	}
	if w, ok := words[strings.ToLower(kind)]; ok {
		return w
	}
	return kind
}
