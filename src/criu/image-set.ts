import { badImage } from './cursor.ts';
import { decodeImage, type Image, openImage } from './image.ts';
import { type EntryOf, fileOf, type Kind, kindOf } from './kinds.ts';
import type { ImageSource } from './source.ts';

/** The images of one checkpoint by kind and number. Errors of its functions: BAD_ARCHIVE, and those of the source. */
export class ImageSet {
  readonly source: ImageSource;
  /** Of the dump before. */
  readonly parent: ImageSet | undefined;
  readonly #names: ReadonlySet<string>;

  private constructor(source: ImageSource, names: readonly string[], parent: ImageSet | undefined) {
    this.source = source;
    this.parent = parent;
    this.#names = new Set(names);
  }

  static async open(source: ImageSource): Promise<ImageSet> {
    const parent = source.parent === undefined ? undefined : await ImageSet.open(source.parent);
    return new ImageSet(source, await source.names(), parent);
  }

  has(kind: Kind, id?: number | bigint | string): boolean {
    return this.#names.has(fileOf(kind, id));
  }

  /** Numbers of all images of a kind ("7" of core-7.img), in the order of the numbers. */
  idsOf(kind: Kind): string[] {
    const found = [...this.#names].map(kindOf).filter((known) => known?.kind === kind);
    return found.map((known) => known?.id ?? '').sort((one, other) => Number(one) - Number(other));
  }

  /** undefined when the checkpoint does not have it. */
  async read<K extends Kind>(kind: K, id?: number | bigint | string): Promise<Image<K> | undefined> {
    if (!this.has(kind, id)) return undefined;
    const file = fileOf(kind, id);
    return decodeImage(file, await this.source.read(file), kind);
  }

  /** The same, whose entries are decoded one by one. */
  async open<K extends Kind>(kind: K, id: number | bigint | string) {
    if (!this.has(kind, id)) return undefined;
    const file = fileOf(kind, id);
    return openImage(file, await this.source.read(file), kind);
  }

  /** None when the checkpoint does not have the image. */
  async entries<K extends Kind>(kind: K, id?: number | bigint | string): Promise<readonly EntryOf<K>[]> {
    return (await this.read(kind, id))?.entries ?? [];
  }

  /** The entry of an image that has one; undefined when the checkpoint does not have the image. */
  async entry<K extends Kind>(kind: K, id?: number | bigint | string): Promise<EntryOf<K> | undefined> {
    return (await this.entries(kind, id))[0];
  }

  /** The same of an image that every checkpoint has. */
  async required<K extends Kind>(kind: K, id?: number | bigint | string): Promise<EntryOf<K>> {
    const entry = await this.entry(kind, id);
    if (entry === undefined) throw badImage(fileOf(kind, id), 'it is missing');
    return entry;
  }
}
